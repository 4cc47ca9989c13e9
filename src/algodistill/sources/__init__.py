"""Source algorithms: reinforcement learning run to be recorded, mostly as batches of independent learners."""

from collections.abc import Callable
from typing import Any

from .a2c import A2C
from .bandits import UCB1, ThompsonSampling
from .dqn import DQN
from .noise_distillation import NoiseDistillation
from .posterior_sampling import PosteriorSampling
from .q_learning import TabularQLearning
from .stable_baselines3 import StableBaselines3


__all__ = [
    "A2C",
    "DQN",
    "SOURCES",
    "UCB1",
    "NoiseDistillation",
    "PosteriorSampling",
    "StableBaselines3",
    "TabularQLearning",
    "ThompsonSampling",
]

# The names that presets and histories know the source algorithms by.
SOURCES: dict[str, Callable[..., Any]] = {
    "a2c": A2C,
    "dqn": DQN,
    "noise_distillation": NoiseDistillation,
    "posterior_sampling": PosteriorSampling,
    "q_learning": TabularQLearning,
    "sb3": StableBaselines3,
    "thompson": ThompsonSampling,
    "ucb1": UCB1,
}
