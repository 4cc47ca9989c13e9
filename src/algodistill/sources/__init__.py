"""Source algorithms: reinforcement learning run to be recorded, as batches of independent learners."""

from .q_learning import TabularQLearning


__all__ = ["SOURCES", "TabularQLearning"]

# The names that presets and histories know the source algorithms by.
SOURCES = {"q_learning": TabularQLearning}
