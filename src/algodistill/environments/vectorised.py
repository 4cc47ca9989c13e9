"""What the environments here have in common: many of one kind, one task each, stepped together in NumPy."""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .tasks import Task, TaskDistribution


RENDER_MODES = ["rgb_array", "ansi"]


class TaskVectorEnv(VectorEnv):
    """Many environments of one kind at once, each with a task of its own that it hides.

    An episode is truncated after `episode_length` steps, and the next one begins in that same step
    (`AutoresetMode.SAME_STEP`): the observation returned is the new episode's first, and `infos["final_obs"]` holds
    the last one of the old. Resetting never changes the tasks.

    Where a source algorithm may see more than is recorded, `infos["source_observations"]` holds that, as elements of
    `source_observation_space`; at an episode's end, the last one of the old is in
    `infos["final_info"]["source_observations"]`.

    A kind of environment says in `_take_tasks`, `_start_episodes`, `_advance`, `_observe` and `_draw` what it does.

    Args:
        num_envs (`int`): Number of environments.
        tasks (`Sequence[dict]`, *optional*): One task an environment. Without them, each draws one on the first reset
            and keeps it.
        task_distribution ([`TaskDistribution`]): The tasks that there are.
        episode_length (`int`): Steps in an episode.
        observation_space (`gymnasium.Space`): One environment's observations.
        action_space (`gymnasium.spaces.Discrete`): One environment's actions.
        render_mode (`str`, *optional*): `"rgb_array"` or `"ansi"`.

    Raises:
        ValueError: If the number of tasks is not `num_envs`, or one is not of the distribution.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 8, "autoreset_mode": AutoresetMode.SAME_STEP}
    source_observation_space: gymnasium.Space | None = None

    def __init__(
        self,
        num_envs: int,
        tasks: Sequence[Task] | None,
        *,
        task_distribution: TaskDistribution,
        episode_length: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.spaces.Discrete,
        render_mode: str | None,
    ):
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(f"render_mode={render_mode!r} is not one of {RENDER_MODES}.")
        self.num_envs, self.render_mode, self.task_distribution = num_envs, render_mode, task_distribution
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._episode_length, self._num_actions = episode_length, int(action_space.n)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._tasks: list[Task] | None = None
        # A single environment is reset by who uses it, who may want to look at how an episode ended.
        self._resets_itself = True
        if tasks is not None:
            self.set_tasks(tasks)

    def _take_tasks(self, tasks: Sequence[Task]) -> None:
        """Read the tasks into arrays."""
        raise NotImplementedError

    def _start_episodes(self, mask: np.ndarray) -> None:
        """Begin an episode in the environments that `mask`, `(num_envs,)`, says."""
        raise NotImplementedError

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take one step in all environments; returns rewards and terminations, each `(num_envs,)`."""
        raise NotImplementedError

    def _observe(self) -> np.ndarray:
        """The observations, `(num_envs, ...)`, as an array of its own."""
        raise NotImplementedError

    def _observe_for_source(self) -> np.ndarray | None:
        """What a source algorithm may see instead, `(num_envs, ...)`."""
        return None

    def _draw(self, index: int) -> Any:
        """A picture, or a text, of one environment."""
        raise NotImplementedError

    def get_tasks(self) -> list[Task] | None:
        """The task of every environment, or `None` before the first reset where none were given."""
        return None if self._tasks is None else list(self._tasks)

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give every environment its task; the episodes under way go on."""
        if len(tasks) != self.num_envs:
            raise ValueError(
                f"{len(tasks)} tasks were given for {self.num_envs} environments: expected one task an environment."
            )
        for task in tasks:
            self.task_distribution.check(task)
        self._tasks = list(tasks)
        self._take_tasks(self._tasks)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed (`int`, *optional*): Seed of all randomness.
            options (`dict`, *optional*): `"tasks"`, new tasks for all environments; `"reset_mask"`, a boolean array of
                shape `(num_envs,)` that says which ones to reset.
        """
        super().reset(seed=seed)
        options = options or {}
        if "tasks" in options:
            self.set_tasks(options["tasks"])
        if self._tasks is None:
            self.set_tasks(self.task_distribution.sample(self.num_envs, self.np_random))
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)), dtype=bool)
        if mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask has the shape {mask.shape}: expected one boolean an environment.")
        self._elapsed[mask] = 0
        self._start_episodes(mask)
        return self._observe(), self._infos()

    def _infos(self) -> dict[str, Any]:
        seen = self._observe_for_source()
        return {} if seen is None else {"source_observations": seen}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one step in every environment; `actions` has the shape `(num_envs,)`."""
        if self._tasks is None:
            raise gymnasium.error.ResetNeeded("Call reset() before step().")
        actions = np.asarray(actions)
        fit = actions.shape == (self.num_envs,) and np.issubdtype(actions.dtype, np.integer)
        if not fit or actions.min() < 0 or actions.max() >= self._num_actions:
            raise ValueError(
                f"actions {actions!r} are not {self.num_envs} whole numbers from 0 to {self._num_actions - 1}."
            )
        rewards, terminations = self._advance(actions)
        self._elapsed += 1
        truncations = (self._elapsed >= self._episode_length) & ~terminations
        dones = terminations | truncations
        if not dones.any():
            return self._observe(), rewards, terminations, truncations, self._infos()
        if not self._resets_itself:
            return self._observe(), rewards, terminations, truncations, self._infos()
        final = {"final_obs": self._observe(), "_final_obs": dones, "final_info": self._infos(), "_final_info": dones}
        self._elapsed[dones] = 0
        self._start_episodes(dones)
        return self._observe(), rewards, terminations, truncations, {**self._infos(), **final}

    def render(self) -> tuple[Any, ...] | None:
        """One picture an environment: `uint8` arrays of shape `(height, width, 3)`, or strings."""
        return None if self.render_mode is None else tuple(self._draw(index) for index in range(self.num_envs))


class TaskEnv(gymnasium.Env):
    """A single environment: a [`TaskVectorEnv`] of one.

    Args:
        task (`dict`, *optional*): What it hides. Without it, a task is drawn on the first reset and kept.
        render_mode (`str`, *optional*): `"rgb_array"` or `"ansi"`.
        kwargs: As for the vectorised environment.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 8}
    vector_class: ClassVar[type[Any]]

    def __init__(self, task: Task | None = None, *, render_mode: str | None = None, **kwargs: Any):
        self._envs: TaskVectorEnv = self.vector_class(
            1, None if task is None else [task], render_mode=render_mode, **kwargs
        )
        self._envs._resets_itself = False
        self.task_distribution = self._envs.task_distribution
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space
        self.source_observation_space = self._envs.source_observation_space
        self.render_mode = render_mode

    def get_task(self) -> Task | None:
        """The task, or `None` before the first reset where none was given."""
        tasks = self._envs.get_tasks()
        return tasks[0] if tasks else None

    def set_task(self, task: Task) -> None:
        """Change the task; the episode under way goes on."""
        self._envs.set_tasks([task])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode, of another task if `options={"task": ...}` says so."""
        super().reset(seed=seed)
        tasks = {"tasks": [options["task"]]} if options and "task" in options else None
        observations, infos = self._envs.reset(seed=seed, options=tasks)
        return observations[0], _first(infos)

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self._envs.step(np.asarray(action)[None])
        return observations[0], float(rewards[0]), bool(terminations[0]), bool(truncations[0]), _first(infos)

    def render(self) -> Any:
        """The environment as a `uint8` array of shape `(height, width, 3)`, or as a string."""
        pictures = self._envs.render()
        return pictures[0] if pictures else None


def _first(infos: dict[str, Any]) -> dict[str, Any]:
    return {"source_observation": infos["source_observations"][0]} if "source_observations" in infos else {}
