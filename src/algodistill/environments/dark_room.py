"""Dark Room: find an invisible goal in a room, seeing only one's own position (Laskin et al. 2022, section 4.1)."""

import operator
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .tasks import Task


ACTIONS = ("no-op", "up", "down", "left", "right")
# Change of (x, y) by each action; y grows downwards, as the room is drawn.
MOVES = np.array([[0, 0], [0, -1], [0, 1], [-1, 0], [1, 0]])

CELL_PIXELS = 24
FLOOR, LINE, GOAL, AGENT, FOUND = (245, 245, 240), (214, 214, 206), (86, 180, 118), (46, 94, 170), (24, 110, 70)


def _cell(value: Any, size: int, name: str) -> tuple[int, int]:
    """Check that `value` is a cell (x, y) of a room of `size` x `size`."""
    try:
        x, y = (operator.index(coordinate) for coordinate in value)
        inside = 0 <= x < size and 0 <= y < size
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise ValueError(
            f"{name} {value!r} is not a cell of the {size}x{size} room: expected [x, y], each a whole number "
            f"from 0 to {size - 1}."
        )
    return x, y


class DarkRoomTasks:
    """All goals of a Dark Room, row by row, with the exact returns of random and of optimal behaviour.

    Args:
        size (`int`, *optional*, defaults to `9`): Cells along a side of the room.
        episode_length (`int`, *optional*, defaults to `20`): Steps in an episode.
        start (`Sequence[int]`, *optional*): Cell (x, y) where every episode starts; the centre by default.
        reward_once (`bool`, *optional*, defaults to `False`): Whether only an episode's first step on the goal pays.
    """

    def __init__(
        self,
        size: int = 9,
        episode_length: int = 20,
        start: Sequence[int] | None = None,
        reward_once: bool = False,
    ):
        for name, value in (("size", size), ("episode_length", episode_length)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not a room's: expected a whole number of at least 1.")
        self.size, self.episode_length, self.reward_once = size, episode_length, reward_once
        self.start = _cell(start, size, "start") if start is not None else (size // 2, size // 2)
        self._random_returns: np.ndarray | None = None

    def tasks(self) -> list[Task]:
        return [{"goal": [x, y]} for y in range(self.size) for x in range(self.size)]

    def check(self, task: Task) -> None:
        if not isinstance(task, dict) or set(task) != {"goal"}:
            raise ValueError(f"{task!r} is not a Dark Room task: expected {{'goal': [x, y]}}.")
        _cell(task["goal"], self.size, "goal")

    def task_id(self, task: Task) -> str:
        self.check(task)
        x, y = task["goal"]
        return f"goal-{x}-{y}"

    def random_return(self, task: Task) -> float:
        self.check(task)
        if self._random_returns is None:
            self._random_returns = self._enumerate_random_returns()
        x, y = task["goal"]
        return float(self._random_returns[y * self.size + x])

    def _enumerate_random_returns(self) -> np.ndarray:
        """Expected return of uniformly random actions for every goal, shape `(size * size,)`, by enumeration."""
        cells = self.size * self.size
        transition = np.zeros((cells, cells))
        for cell in range(cells):
            position = np.array([cell % self.size, cell // self.size])
            for x, y in np.clip(position + MOVES, 0, self.size - 1):
                transition[cell, y * self.size + x] += 1 / len(MOVES)
        start = self.start[1] * self.size + self.start[0]
        # Row g is the distribution over cells when the goal is cell g.
        occupied = np.zeros((cells, cells))
        occupied[:, start] = 1
        goals = np.arange(cells)
        returns = np.zeros(cells)
        for _ in range(self.episode_length):
            occupied = occupied @ transition
            returns += occupied[goals, goals]
            if self.reward_once:
                occupied[goals, goals] = 0  # what has been paid is out of the count
        return returns

    def optimal_return(self, task: Task) -> float:
        self.check(task)
        distance = sum(abs(goal - start) for goal, start in zip(task["goal"], self.start, strict=True))
        # The step that reaches the goal is the first one paid; whoever starts on it is paid from the first step.
        paid_steps = max(self.episode_length - max(distance, 1) + 1, 0)
        return float(min(paid_steps, 1) if self.reward_once else paid_steps)


class DarkRoomVectorEnv(VectorEnv):
    """Many Dark Rooms at once, one task each, in NumPy.

    The observation is the agent's own cell (x, y), the actions are no-op, up, down, left, right. Reward is 1 on every
    step that ends on the goal (on the first such step of an episode only with `reward_once`). An episode never
    terminates; it is truncated after `episode_length` steps, and the next one begins in that same step
    (`AutoresetMode.SAME_STEP`): the observation returned is the new episode's first and `infos["final_obs"]`
    holds the last one of the old. Resetting never changes the tasks.

    Args:
        num_envs (`int`, *optional*, defaults to `1`): Number of rooms.
        tasks (`Sequence[dict]`, *optional*): One task a room, `{"goal": [x, y]}`. Without them, each room draws one
            on the first reset and keeps it.
        size (`int`, *optional*, defaults to `9`): Cells along a side of the room.
        episode_length (`int`, *optional*, defaults to `20`): Steps in an episode.
        start (`Sequence[int]`, *optional*): Cell (x, y) where every episode starts; the centre by default.
        reward_once (`bool`, *optional*, defaults to `False`): Whether only an episode's first step on the goal pays.
        render_mode (`str`, *optional*): `"rgb_array"` or `"ansi"`.

    Raises:
        ValueError: If the number of tasks is not `num_envs`, or a task or the start lies outside the room.
    """

    metadata = {
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        tasks: Sequence[Task] | None = None,
        *,
        size: int = 9,
        episode_length: int = 20,
        start: Sequence[int] | None = None,
        reward_once: bool = False,
        render_mode: str | None = None,
    ):
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r} is not one of {self.metadata['render_modes']}.")
        self.task_distribution = DarkRoomTasks(size, episode_length, start, reward_once)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = gymnasium.spaces.MultiDiscrete([size, size])
        self.single_action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._size, self._episode_length, self._reward_once = size, episode_length, reward_once
        self._start = np.array(self.task_distribution.start)
        self._positions = np.tile(self._start, (num_envs, 1))
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._paid = np.zeros(num_envs, dtype=bool)
        self._goals: np.ndarray | None = None
        if tasks is not None:
            self.set_tasks(tasks)

    def get_tasks(self) -> list[Task] | None:
        """The task of every room, or `None` before the first reset where none were given."""
        return None if self._goals is None else [{"goal": goal} for goal in self._goals.tolist()]

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give every room its task; the episodes under way go on."""
        if len(tasks) != self.num_envs:
            raise ValueError(
                f"{len(tasks)} tasks were given for {self.num_envs} environments: expected one task an environment."
            )
        for task in tasks:
            self.task_distribution.check(task)
        self._goals = np.array([task["goal"] for task in tasks], dtype=np.int64).reshape(self.num_envs, 2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes.

        Args:
            seed (`int`, *optional*): Seed of the generator that draws tasks where none were given.
            options (`dict`, *optional*): `"tasks"`, new tasks for all rooms; `"reset_mask"`, a boolean array of shape
                `(num_envs,)` that says which rooms to reset.
        """
        super().reset(seed=seed)
        options = options or {}
        if "tasks" in options:
            self.set_tasks(options["tasks"])
        if self._goals is None:
            self._goals = self.np_random.integers(self._size, size=(self.num_envs, 2))
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        self._start_episodes(mask)
        return self._positions.copy(), {}

    def _start_episodes(self, mask: np.ndarray) -> None:
        self._positions[mask] = self._start
        self._elapsed[mask] = 0
        self._paid[mask] = False

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one step in every room; `actions` has the shape `(num_envs,)`."""
        if self._goals is None:
            raise gymnasium.error.ResetNeeded("Call reset() before step().")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.min() < 0 or actions.max() >= len(ACTIONS):
            raise ValueError(
                f"actions {actions!r} are not {self.num_envs} whole numbers from 0 to {len(ACTIONS) - 1}."
            )
        positions = self._positions
        positions += MOVES[actions]
        np.clip(positions, 0, self._size - 1, out=positions)
        self._elapsed += 1
        on_goal = (positions[:, 0] == self._goals[:, 0]) & (positions[:, 1] == self._goals[:, 1])
        if self._reward_once:
            on_goal &= ~self._paid
            self._paid |= on_goal
        rewards = on_goal.astype(np.float64)
        terminations = np.zeros(self.num_envs, dtype=bool)
        truncations = self._elapsed >= self._episode_length
        infos: dict[str, Any] = {}
        if truncations.any():
            infos = {"final_obs": positions.copy(), "_final_obs": truncations}
            self._start_episodes(truncations)
        return positions.copy(), rewards, terminations, truncations, infos

    def render(self) -> tuple[Any, ...] | None:
        """One picture a room: `uint8` arrays of shape `(height, width, 3)`, or strings."""
        if self.render_mode is None:
            return None
        draw = _draw_text if self.render_mode == "ansi" else _draw_picture
        goals = self._goals if self._goals is not None else np.full((self.num_envs, 2), -1)
        return tuple(
            draw(self._size, tuple(position), tuple(goal))
            for position, goal in zip(self._positions.tolist(), goals.tolist(), strict=True)
        )


class DarkRoomEnv(gymnasium.Env):
    """A single Dark Room: [`DarkRoomVectorEnv`] with one room.

    Args:
        task (`dict`, *optional*): `{"goal": [x, y]}`. Without it, one is drawn on the first reset and kept.
        render_mode (`str`, *optional*): `"rgb_array"` or `"ansi"`.
        kwargs: As for [`DarkRoomVectorEnv`].
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8}

    def __init__(self, task: Task | None = None, *, render_mode: str | None = None, **kwargs: Any):
        self._rooms = DarkRoomVectorEnv(1, None if task is None else [task], render_mode=render_mode, **kwargs)
        self.task_distribution = self._rooms.task_distribution
        self.observation_space = self._rooms.single_observation_space
        self.action_space = self._rooms.single_action_space
        self.render_mode = render_mode

    def get_task(self) -> Task | None:
        """The task, or `None` before the first reset where none was given."""
        tasks = self._rooms.get_tasks()
        return tasks[0] if tasks else None

    def set_task(self, task: Task) -> None:
        """Change the task; the episode under way goes on."""
        self._rooms.set_tasks([task])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode, of another task if `options={"task": ...}` says so."""
        super().reset(seed=seed)
        options = options or {}
        observations, infos = self._rooms.reset(
            seed=seed, options={"tasks": [options["task"]]} if "task" in options else None
        )
        return observations[0], infos

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observations, rewards, terminations, truncations, infos = self._rooms.step(np.asarray(action)[None])
        observation = infos["final_obs"][0] if truncations[0] else observations[0]
        return observation, float(rewards[0]), bool(terminations[0]), bool(truncations[0]), {}

    def render(self) -> Any:
        """The room as a `uint8` array of shape `(height, width, 3)`, or as a string."""
        pictures = self._rooms.render()
        return pictures[0] if pictures else None


def _draw_text(size: int, agent: tuple[int, int], goal: tuple[int, int]) -> str:
    """The room in letters: `A` the agent, `G` the goal, `*` the agent on the goal."""

    def letter(cell: tuple[int, int]) -> str:
        if cell == agent:
            return "*" if agent == goal else "A"
        return "G" if cell == goal else "."

    return "\n".join(" ".join(letter((x, y)) for x in range(size)) for y in range(size)) + "\n"


def _draw_picture(size: int, agent: tuple[int, int], goal: tuple[int, int]) -> np.ndarray:
    """The room as an RGB picture: a green goal, and a blue agent that turns dark green on the goal."""
    picture = np.full((size * CELL_PIXELS + 1, size * CELL_PIXELS + 1, 3), FLOOR, dtype=np.uint8)
    if goal[0] >= 0:
        x, y = goal
        picture[y * CELL_PIXELS : (y + 1) * CELL_PIXELS, x * CELL_PIXELS : (x + 1) * CELL_PIXELS] = GOAL
    picture[::CELL_PIXELS] = LINE
    picture[:, ::CELL_PIXELS] = LINE
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    centre_x, centre_y = (coordinate * CELL_PIXELS + CELL_PIXELS / 2 for coordinate in agent)
    disc = (columns - centre_x) ** 2 + (rows - centre_y) ** 2 <= (CELL_PIXELS * 0.34) ** 2
    picture[disc] = FOUND if agent == goal else AGENT
    return picture
