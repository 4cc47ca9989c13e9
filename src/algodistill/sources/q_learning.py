"""Tabular Q-learning (Watkins, 1989), as a batch of independent learners."""

import math

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete

from .schedules import linear
from .settings import check_settings


class TabularQLearning:
    """Independent epsilon-greedy Q-learners, one table each, updated together.

    For every learner, after a step from state s with action a to reward r and state s' (Watkins, 1989):

        Q(s, a) <- Q(s, a) + learning_rate * (r + discount * max_a' Q(s', a') - Q(s, a))

    A terminal s' is worth nothing; a truncated episode is bootstrapped from its last state. Ties are broken at random.
    With `initial_value` above anything that can be returned, a learner tries every action of every state that it
    meets: it explores on purpose, and what is distilled from its history is purposeful exploration.

    Args:
        observation_space (`gymnasium.Space`): One environment's observations: Discrete or MultiDiscrete.
        action_space (`gymnasium.Space`): One environment's actions: Discrete.
        num_learners (`int`): Number of learners, the leading axis of everything below.
        rng (`numpy.random.Generator`): Source of all randomness.
        learning_rate (`float`, *optional*, defaults to `1.0`): Step size; 1 suits deterministic environments.
        discount (`float`, *optional*, defaults to `0.9`): Discount factor.
        initial_value (`float`, *optional*, defaults to `0.0`): Q of everything never tried: 0, or optimistic.
        epsilon_start (`float`, *optional*, defaults to `0.0`): Probability of a random action in the first episode.
        epsilon_end (`float`, *optional*, defaults to `0.0`): The same after `epsilon_episodes` episodes.
        epsilon_episodes (`int`, *optional*, defaults to `1`): Episodes over which epsilon changes linearly.

    Raises:
        ValueError: If a space is not discrete or a setting is out of its range.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        num_learners: int,
        rng: np.random.Generator,
        *,
        learning_rate: float = 1.0,
        discount: float = 0.9,
        initial_value: float = 0.0,
        epsilon_start: float = 0.0,
        epsilon_end: float = 0.0,
        epsilon_episodes: int = 1,
    ):
        if isinstance(observation_space, Discrete):
            sizes, starts = np.array([observation_space.n]), np.array([observation_space.start])
        elif isinstance(observation_space, MultiDiscrete):
            sizes, starts = observation_space.nvec.ravel(), observation_space.start.ravel()
        else:
            raise ValueError(
                f"Tabular Q-learning needs Discrete or MultiDiscrete observations, not {observation_space}."
            )
        if not isinstance(action_space, Discrete):
            raise ValueError(f"Tabular Q-learning needs Discrete actions, not {action_space}.")
        check_settings(
            learning_rate=(learning_rate, 0, 1),
            discount=(discount, 0, 1),
            initial_value=(initial_value, -math.inf, math.inf),
            epsilon_start=(epsilon_start, 0, 1),
            epsilon_end=(epsilon_end, 0, 1),
            epsilon_episodes=(epsilon_episodes, 1, math.inf),
        )
        # state = sum over dimensions of (observation - start) * stride
        self._strides = np.cumprod(np.append(1, sizes[:0:-1]))[::-1].astype(np.int64)
        self._offset = int(starts @ self._strides)
        self._num_states, self._num_actions = int(np.prod(sizes)), int(action_space.n)
        self._action_start = int(action_space.start)
        self._rng = rng
        self._learning_rate, self._discount = learning_rate, discount
        self._epsilon_start, self._epsilon_end, self._epsilon_episodes = epsilon_start, epsilon_end, epsilon_episodes
        self._explores = max(epsilon_start, epsilon_end) > 0
        self._episodes = np.zeros(num_learners, dtype=np.int64)
        # Row learner * num_states + state of the table holds that state's values, shape (num_actions,).
        self.q_values = np.full((num_learners * self._num_states, self._num_actions), initial_value, dtype=np.float32)
        self._first_rows = np.arange(num_learners) * self._num_states

    def _rows(self, observations: np.ndarray) -> np.ndarray:
        """Rows of the table that the observations, `(learners, ...)`, stand for."""
        states = observations.reshape(len(self._first_rows), -1) @ self._strides
        return states + (self._first_rows - self._offset)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Choose one action a learner, shape `(learners,)`, for observations of shape `(learners, ...)`."""
        values = np.take(self.q_values, self._rows(observations), axis=0)
        best = values == values.max(axis=1, keepdims=True)
        # The largest random number among the best actions breaks ties uniformly.
        actions = (self._rng.random(values.shape, dtype=np.float32) + best).argmax(axis=1)
        if self._explores:
            epsilon = linear(self._epsilon_start, self._epsilon_end, self._episodes / self._epsilon_episodes)
            explore = self._rng.random(len(actions)) < epsilon
            actions = np.where(explore, self._rng.integers(self._num_actions, size=len(actions)), actions)
        return actions + self._action_start

    def learn(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: np.ndarray,
        terminations: np.ndarray,
        truncations: np.ndarray,
    ) -> None:
        """Update every learner's table with the one step it took.

        `next_observations` are those that the actions led to, also where an episode ended there.
        """
        next_values = np.take(self.q_values, self._rows(next_observations), axis=0).max(axis=1)
        targets = rewards + self._discount * next_values * ~terminations
        entries = self._rows(observations) * self._num_actions + (actions - self._action_start)
        table = self.q_values.reshape(-1)
        table[entries] += self._learning_rate * (targets - table[entries])
        self._episodes += terminations | truncations
