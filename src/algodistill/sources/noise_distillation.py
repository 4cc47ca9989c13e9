"""Noise distillation (Zisman et al., 2024): histories of a demonstrator whose noise falls, instead of a learner's."""

import copy
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector.utils import batch_space

from ..environments import Task, known_distribution
from ..environments.making import import_function
from .schedules import linear
from .settings import check_settings


class NoiseDistillation:
    """Independent learners that only seem to learn: they follow a demonstrator, with less and less noise.

    In every step, a learner takes

        a uniformly random action    with probability epsilon
        the demonstrator's action    otherwise

    and epsilon changes linearly with its episodes, from 1 to 0 by default. Its history goes from clueless to as good
    as the demonstrator, as if it had learnt; no reinforcement learning algorithm has to be run for it.

    The demonstrator is optimal behaviour, where that is known, or a function, `function(observations, tasks)`. It is
    called once a step with what the learners see, `(learners, ...)` (or a dict or tuple of such arrays, where one
    observation is a dict or tuple), and the list of their tasks; it returns their actions, `(learners, ...)`. The
    histories are the same again if what the function returns is.

    Args:
        observation_space (`gymnasium.Space`): What a learner sees of its environment.
        action_space (`gymnasium.Space`): Its actions: Discrete, MultiDiscrete, MultiBinary, or a Box with bounds.
        num_learners (`int`): Number of learners, one environment each: the leading axis of everything below.
        rng (`numpy.random.Generator`): Source of all randomness.
        environment (`str`): Gymnasium id of the environments.
        environment_kwargs (`Mapping`): What else they are made with.
        tasks (`Sequence[dict]`): Their tasks, one a learner.
        demonstrator (`str`, *optional*): Name of the function, `"package.module:function"`. By default, the
            demonstrator is optimal behaviour, where the environment's task distribution knows it.
        epsilon_start (`float`, *optional*, defaults to `1.0`): Probability of a random action in the first episode.
        epsilon_end (`float`, *optional*, defaults to `0.0`): The same after `epsilon_episodes` episodes.
        epsilon_episodes (`int`, *optional*, defaults to `100`): Episodes over which epsilon changes linearly.

    Raises:
        ValueError: If optimal behaviour is not known, there is no such function, actions cannot be drawn uniformly, or
            a setting is out of its range.
    """

    # Whoever runs sources tells this one the environments that it acts in.
    needs_own_tasks = True

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        num_learners: int,
        rng: np.random.Generator,
        *,
        environment: str,
        environment_kwargs: Mapping[str, Any],
        tasks: Sequence[Task],
        demonstrator: str | None = None,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.0,
        epsilon_episodes: int = 100,
    ):
        check_settings(
            epsilon_start=(epsilon_start, 0, 1),
            epsilon_end=(epsilon_end, 0, 1),
            epsilon_episodes=(epsilon_episodes, 1, math.inf),
        )
        if not isinstance(action_space, Discrete | MultiDiscrete | MultiBinary | Box):
            raise ValueError(
                f"Noise distillation needs Discrete, MultiDiscrete, MultiBinary or Box actions, not {action_space}."
            )
        if isinstance(action_space, Box) and not action_space.is_bounded():
            raise ValueError(
                f"No action of {action_space} is uniformly random: give it bounds, such as by "
                "gymnasium.wrappers.TransformAction."
            )
        self._action_space, self._rng = action_space, rng
        self._epsilon_start, self._epsilon_end, self._epsilon_episodes = epsilon_start, epsilon_end, epsilon_episodes
        self._episodes = np.zeros(num_learners, dtype=np.int64)
        self._all_actions: Any = batch_space(action_space, num_learners)
        self._all_actions.seed(int(rng.integers(2**31)))
        self._demonstrate: Callable[[Any], np.ndarray]
        if demonstrator is not None:
            function = import_function("demonstrator", demonstrator)
            # A copy: what the function does to its tasks is not done to those that are recorded.
            self._demonstrate = partial(self._ask, demonstrator, function, copy.deepcopy(list(tasks)))
            return
        distribution: Any = known_distribution(environment, environment_kwargs, tasks)
        if not hasattr(distribution, "best_actions"):
            raise ValueError(
                f"How to act best in these tasks of {environment} is not known: name a function that says how to act, "
                "demonstrator: package.module:function, which takes (observations, tasks) and returns the actions."
            )
        self._demonstrate = partial(distribution.best_actions, distribution.task_array(tasks), rng=rng)

    def act(self, observations: Any) -> np.ndarray:
        """Choose one action a learner, `(learners, ...)`, for observations of shape `(learners, ...)`."""
        shown, actions = self._demonstrate(observations), self._all_actions.sample()
        epsilon = linear(self._epsilon_start, self._epsilon_end, self._episodes / self._epsilon_episodes)
        follows = self._rng.random(len(epsilon)) >= epsilon
        actions[follows] = shown[follows]
        return actions

    def learn(
        self,
        observations: Any,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: Any,
        terminations: np.ndarray,
        truncations: np.ndarray,
    ) -> None:
        """Count every learner's episodes."""
        self._episodes += terminations | truncations

    def _ask(
        self, name: str, function: Callable[[Any, list[Task]], Any], tasks: list[Task], observations: Any
    ) -> np.ndarray:
        """What the demonstrator of this name does, as elements of the action space, `(learners, ...)`."""
        try:
            # A copy: what the function does to the observations is not done to those that are recorded.
            returned = np.asarray(function(copy.deepcopy(observations), tasks))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise ValueError(
                f"The demonstrator {name!r} failed at {place.filename}:{place.lineno}, called with (observations, "
                f"tasks): {type(error).__name__}: {error}"
            ) from error
        if returned.shape != self._all_actions.shape:
            raise ValueError(
                f"The demonstrator {name!r} returned actions of shape {returned.shape}: expected "
                f"{self._all_actions.shape}, an action of {self._action_space} for each learner."
            )
        whole = self._all_actions.dtype.kind != "f"
        if returned.dtype.kind not in ("biu" if whole else "biuf"):
            raise ValueError(
                f"The demonstrator {name!r} returned actions of type {returned.dtype}: expected "
                f"{self._all_actions.dtype}, for {self._action_space}."
            )
        actions = returned.astype(self._all_actions.dtype)
        # A whole number that is too large for its type becomes another one.
        if not self._all_actions.contains(actions) or (whole and (actions != returned).any()):
            raise ValueError(
                f"The demonstrator {name!r} returned actions between {returned.min()} and {returned.max()}, which are "
                f"not all in {self._action_space}: have it return elements of that, such as by numpy.clip."
            )
        return actions
