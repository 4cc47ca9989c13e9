"""Dark Room: find an invisible goal in a room, seeing only one's own position (Laskin et al. 2022, section 4.1)."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from .rooms import RoomVectorEnv, check_cell, check_numbers, draw_picture, draw_text, random_walk, shortest_ways
from .tasks import FiniteTasks, Task
from .vectorised import TaskEnv


GOAL = (86, 180, 118)


class DarkRoomTasks(FiniteTasks):
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
        check_numbers(size=size, episode_length=episode_length)
        self.size, self.episode_length, self.reward_once = size, episode_length, reward_once
        self.start = check_cell(start, size, "start") if start is not None else (size // 2, size // 2)
        self._random_returns: np.ndarray | None = None

    def tasks(self) -> list[Task]:
        return [{"goal": [x, y]} for y in range(self.size) for x in range(self.size)]

    def check(self, task: Task) -> None:
        if not isinstance(task, dict) or set(task) != {"goal"}:
            raise ValueError(f"{task!r} is not a Dark Room task: expected {{'goal': [x, y]}}.")
        check_cell(task["goal"], self.size, "goal")

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
        cells, transition = self.size * self.size, random_walk(self.size)
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

    def task_array(self, tasks: Sequence[Task]) -> np.ndarray:
        """The goals, `(n, 2)`."""
        return np.array([task["goal"] for task in tasks], dtype=np.int64).reshape(-1, 2)

    def best_actions(self, goals: np.ndarray, observations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """First steps of shortest ways to the goals, `(n,)`, drawn evenly.

        Args:
            goals (`np.ndarray`): The tasks as [`task_array`] gives them, `(n, 2)`.
            observations (`np.ndarray`): Cells, `(n, 2)`, or what a source algorithm sees, `(n, 3)`.
            rng (`numpy.random.Generator`): Chooses among ways that are equally short.
        """
        return shortest_ways(observations[:, :2], goals, rng)

    def possible_tasks(self, reached: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Which tasks would have paid these rewards for reaching these cells, `(n, tasks)`.

        With `reward_once`, only of steps before the first one that is paid.
        """
        is_goal = np.arange(self.size**2) == (reached[:, 1] * self.size + reached[:, 0])[:, None]
        return is_goal == (rewards > 0)[:, None]


class DarkRoomVectorEnv(RoomVectorEnv):
    """Many Dark Rooms at once, one task each, in NumPy.

    The observation is the agent's own cell (x, y), the actions are no-op, up, down, left, right. Reward is 1 on every
    step that ends on the goal (on the first such step of an episode only with `reward_once`). An episode never
    terminates; it is truncated after `episode_length` steps.

    With `reward_once`, a source algorithm may see whether the reward has been paid: it is the third number of
    `infos["source_observations"]`. (What pays once is not Markov in the position alone.)

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

    task_distribution: DarkRoomTasks

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
        distribution = DarkRoomTasks(size, episode_length, start, reward_once)
        self._start, self._reward_once = np.array(distribution.start), reward_once
        self._goals = np.full((num_envs, 2), -1)
        self._paid = np.zeros(num_envs, dtype=bool)
        self.source_observation_space = gymnasium.spaces.MultiDiscrete([size, size, 2]) if reward_once else None
        super().__init__(
            num_envs,
            tasks,
            size=size,
            task_distribution=distribution,
            episode_length=episode_length,
            render_mode=render_mode,
        )
        self._positions[:] = self._start

    def _take_tasks(self, tasks: Sequence[Task]) -> None:
        self._goals = self.task_distribution.task_array(tasks)

    def _start_episodes(self, mask: np.ndarray) -> None:
        self._positions[mask] = self._start
        self._paid[mask] = False

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._walk(actions)
        pays = self._are_at(self._goals)
        if self._reward_once:
            pays &= ~self._paid
            self._paid |= pays
        return pays.astype(np.float64), np.zeros(self.num_envs, dtype=bool)

    def _observe_for_source(self) -> np.ndarray | None:
        return np.column_stack([self._positions, self._paid]) if self._reward_once else None

    def _draw(self, index: int) -> Any:
        agent, goal = tuple(self._positions[index].tolist()), tuple(self._goals[index].tolist())
        if self.render_mode == "ansi":
            return draw_text(self._size, agent, {goal: "G"}, agent == goal)
        return draw_picture(self._size, agent, {goal: GOAL} if goal[0] >= 0 else {}, agent == goal)


class DarkRoomEnv(TaskEnv):
    """A single Dark Room: [`DarkRoomVectorEnv`] with one room.

    Args:
        task (`dict`, *optional*): `{"goal": [x, y]}`. Without it, one is drawn on the first reset and kept.
        render_mode (`str`, *optional*): `"rgb_array"` or `"ansi"`.
        kwargs: As for [`DarkRoomVectorEnv`].
    """

    vector_class = DarkRoomVectorEnv
