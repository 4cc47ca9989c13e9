"""Algorithms for bandits with Bernoulli arms: UCB1 and Thompson sampling, as batches of independent learners."""

import math

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from .settings import check_settings


class _ArmCounts:
    """What both remember: how often each learner pulled each arm, and what that paid.

    Args:
        observation_space (`gymnasium.Space`): One environment's observations, which are not looked at.
        action_space (`gymnasium.spaces.Discrete`): The arms.
        num_learners (`int`): Number of learners, the leading axis of everything below.
        rng (`numpy.random.Generator`): Source of all randomness.

    Raises:
        ValueError: If the actions are not Discrete.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        num_learners: int,
        rng: np.random.Generator,
    ):
        if not isinstance(action_space, Discrete):
            raise ValueError(f"A bandit's arms are Discrete actions, not {action_space}.")
        self._first_arm, self._rng = int(action_space.start), rng
        self._learners = np.arange(num_learners)
        self.pulls = np.zeros((num_learners, int(action_space.n)))
        self.paid = np.zeros((num_learners, int(action_space.n)))

    def learn(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: np.ndarray,
        terminations: np.ndarray,
        truncations: np.ndarray,
    ) -> None:
        """Count every learner's pull."""
        arms = actions - self._first_arm
        self.pulls[self._learners, arms] += 1
        self.paid[self._learners, arms] += rewards


class UCB1(_ArmCounts):
    """UCB1 (Auer, Cesa-Bianchi & Fischer, 2002): pull the arm with the highest upper confidence bound,

        mean of arm + exploration * sqrt(ln t / pulls of arm)

    after each arm has been pulled once; ties are broken at random.

    Args:
        exploration (`float`, *optional*, defaults to `sqrt(2)`): Width of the bound; the default is UCB1's.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        num_learners: int,
        rng: np.random.Generator,
        *,
        exploration: float = 2**0.5,
    ):
        super().__init__(observation_space, action_space, num_learners, rng)
        check_settings(exploration=(exploration, 0, math.inf))
        self._exploration = exploration

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Choose one arm a learner, shape `(learners,)`."""
        pulls = np.maximum(self.pulls, 1)
        time = np.maximum(self.pulls.sum(axis=1, keepdims=True), 1)
        bounds = self.paid / pulls + self._exploration * np.sqrt(np.log(time) / pulls)
        bounds[self.pulls == 0] = np.inf
        best = bounds == bounds.max(axis=1, keepdims=True)
        return (self._rng.random(bounds.shape) + best).argmax(axis=1) + self._first_arm


class ThompsonSampling(_ArmCounts):
    """Thompson sampling (Thompson, 1933): draw a mean for each arm from what is believed of it,

        Beta(1 + times it paid, 1 + times it did not)

    and pull the arm with the highest.
    """

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Choose one arm a learner, shape `(learners,)`."""
        drawn = self._rng.beta(1 + self.paid, 1 + self.pulls - self.paid)
        return drawn.argmax(axis=1) + self._first_arm
