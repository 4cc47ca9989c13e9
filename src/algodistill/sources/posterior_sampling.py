"""Posterior sampling over the tasks of a finite distribution (Thompson, 1933; Osband et al., 2013)."""

from typing import Any

import gymnasium
import numpy as np


class PosteriorSampling:
    """Independent learners that know the environment but not their task: they act as if a task that they have drawn,
    from all that are still possible, were theirs.

    With a uniform prior and deterministic rewards, the posterior is uniform over the tasks that would have paid as it
    was paid. A learner draws one at the beginning of every episode, and again as soon as the one that it follows has
    become impossible; it acts optimally for it.

    Args:
        observation_space (`gymnasium.Space`): What a learner sees of one environment.
        action_space (`gymnasium.Space`): One environment's actions.
        num_learners (`int`): Number of learners, the leading axis of everything below.
        rng (`numpy.random.Generator`): Source of all randomness.
        task_distribution (`TaskDistribution`): The tasks: finite, with `best_actions` and `possible_tasks`.

    Raises:
        ValueError: If the environment's tasks cannot be planned for.
    """

    needs_tasks = True

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        num_learners: int,
        rng: np.random.Generator,
        *,
        task_distribution: Any,
    ):
        if not hasattr(task_distribution, "possible_tasks"):
            kind = type(task_distribution).__name__
            raise ValueError(f"Posterior sampling needs tasks that it can plan for, which {kind} are not.")
        self._distribution, self._rng = task_distribution, rng
        self._tasks = task_distribution.task_array(task_distribution.tasks())
        # Which tasks each learner still takes for possible, `(learners, tasks)`, and which one it follows.
        self.possible = np.ones((num_learners, len(self._tasks)), dtype=bool)
        self._followed = np.zeros(num_learners, dtype=np.int64)
        self._draws = np.ones(num_learners, dtype=bool)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Choose one action a learner, shape `(learners,)`, for observations of shape `(learners, ...)`."""
        if self._draws.any():
            # The largest random number among the possible tasks draws one of them uniformly.
            possible = self.possible[self._draws]
            numbers = self._rng.random(possible.shape, dtype=np.float32)
            self._followed[self._draws] = (numbers + possible).argmax(axis=1)
            self._draws[:] = False
        return self._distribution.best_actions(self._tasks[self._followed], observations, self._rng)

    def learn(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: np.ndarray,
        terminations: np.ndarray,
        truncations: np.ndarray,
    ) -> None:
        """Rule out the tasks that would have paid otherwise."""
        undecided = np.flatnonzero(self.possible.sum(axis=1) > 1)
        self.possible[undecided] &= self._distribution.possible_tasks(next_observations[undecided], rewards[undecided])
        refuted = ~self.possible[np.arange(len(self._followed)), self._followed]
        self._draws = refuted | terminations | truncations
