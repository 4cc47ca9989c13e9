"""Dark Key-to-Door: find an invisible key, then an invisible door (Laskin et al. 2022, section 4.1)."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from .rooms import RoomVectorEnv, check_cell, check_numbers, draw_picture, draw_text, random_walk, shortest_ways
from .tasks import FiniteTasks, Task
from .vectorised import TaskEnv


KEY, DOOR, OPEN = (222, 184, 60), (150, 98, 62), (86, 180, 118)


class DarkKeyToDoorTasks(FiniteTasks):
    """All pairs of a key's and a door's cell, key by key and row by row, with exact reference returns.

    Args:
        size (`int`, *optional*, defaults to `9`): Cells along a side of the room.
        episode_length (`int`, *optional*, defaults to `50`): Steps in an episode.
        ends_at_door (`bool`, *optional*, defaults to `False`): Whether an episode terminates when the door opens.
    """

    def __init__(self, size: int = 9, episode_length: int = 50, ends_at_door: bool = False):
        check_numbers(size=size, episode_length=episode_length)
        self.size, self.episode_length, self.ends_at_door = size, episode_length, ends_at_door
        self._first_visits: np.ndarray | None = None

    def tasks(self) -> list[Task]:
        cells = [[x, y] for y in range(self.size) for x in range(self.size)]
        return [{"key": list(key), "door": list(door)} for key in cells for door in cells]

    def check(self, task: Task) -> None:
        if not isinstance(task, dict) or set(task) != {"key", "door"}:
            raise ValueError(f"{task!r} is not a Key-to-Door task: expected {{'key': [x, y], 'door': [x, y]}}.")
        for name in ("key", "door"):
            check_cell(task[name], self.size, name)

    def task_id(self, task: Task) -> str:
        self.check(task)
        return "key-{}-{}-door-{}-{}".format(*task["key"], *task["door"])

    def _cell(self, cell: Sequence[int]) -> int:
        return cell[1] * self.size + cell[0]

    def random_return(self, task: Task) -> float:
        """By enumeration: the key by each step of the episode, then the door in what is left of it."""
        self.check(task)
        if self._first_visits is None:
            self._first_visits = self._enumerate_first_visits()
        key, door = self._cell(task["key"]), self._cell(task["door"])
        finds_key = self._first_visits[:, :, key].mean(axis=1)
        opens_door_within = np.append(0, np.cumsum(self._first_visits[:, key, door]))
        steps_left = self.episode_length - 1 - np.arange(self.episode_length)
        return float(finds_key.sum() + finds_key @ opens_door_within[steps_left])

    def _enumerate_first_visits(self) -> np.ndarray:
        """Probability of random actions to come to cell `to` from cell `start` for the first time with step t, where
        step 0 is the first: shape `(episode_length, start, to)`."""
        transition = random_walk(self.size)
        visits = np.empty((self.episode_length, *transition.shape))
        visits[0] = transition
        for step in range(1, self.episode_length):
            # From `start` to anywhere but `to`, and from there on.
            visits[step] = transition @ visits[step - 1] - transition * np.diag(visits[step - 1])
        return visits

    def optimal_return(self, task: Task) -> float:
        """Mean over all cells that an episode may start from."""
        self.check(task)
        y, x = np.divmod(np.arange(self.size**2), self.size)
        (key_x, key_y), (door_x, door_y) = task["key"], task["door"]
        # Even what one stands on takes a step to find.
        to_key = np.maximum(abs(x - key_x) + abs(y - key_y), 1)
        to_door = to_key + max(abs(key_x - door_x) + abs(key_y - door_y), 1)
        return float(np.mean((to_key <= self.episode_length).astype(int) + (to_door <= self.episode_length)))

    def task_array(self, tasks: Sequence[Task]) -> np.ndarray:
        """The cells of key and door, `(n, 2, 2)`."""
        return np.array([[task["key"], task["door"]] for task in tasks], dtype=np.int64).reshape(-1, 2, 2)

    def best_actions(
        self, keys_and_doors: np.ndarray, observations: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """First steps of shortest ways to the key, or for whoever has it to the door, `(n,)`, drawn evenly.

        Args:
            keys_and_doors (`np.ndarray`): The tasks as [`task_array`] gives them, `(n, 2, 2)`.
            observations (`np.ndarray`): What a source algorithm sees, `(n, 3)`: a cell, and how far the episode is.
            rng (`numpy.random.Generator`): Chooses among ways that are equally short.
        """
        has_key = observations[:, 2:] > 0
        return shortest_ways(observations[:, :2], np.where(has_key, keys_and_doors[:, 1], keys_and_doors[:, 0]), rng)


class DarkKeyToDoorVectorEnv(RoomVectorEnv):
    """Many rooms with a key and a door at once, one task each, in NumPy.

    The observation is the agent's own cell (x, y), the actions are no-op, up, down, left, right. Every episode starts
    in a random cell. The first step that ends at the key pays 1; after that, the first step that ends at the door pays
    1. An episode is truncated after `episode_length` steps; it terminates only with `ends_at_door`.

    Neither key nor door is part of the observation, but a source algorithm may see how far an episode has come: the
    third number of `infos["source_observations"]` is 0 at first, 1 with the key, 2 with the door open. (What pays once
    is not Markov in the position alone: without this, a learner that has no memory stops at about 1 of 2.)

    Args:
        num_envs (`int`, *optional*, defaults to `1`): Number of rooms.
        tasks (`Sequence[dict]`, *optional*): One task a room, `{"key": [x, y], "door": [x, y]}`. Without them, each
            room draws one on the first reset and keeps it.
        size (`int`, *optional*, defaults to `9`): Cells along a side of the room.
        episode_length (`int`, *optional*, defaults to `50`): Steps in an episode.
        ends_at_door (`bool`, *optional*, defaults to `False`): Whether an episode terminates when the door opens.
        render_mode (`str`, *optional*): `"rgb_array"` or `"ansi"`.

    Raises:
        ValueError: If the number of tasks is not `num_envs`, or a cell lies outside the room.
    """

    task_distribution: DarkKeyToDoorTasks

    def __init__(
        self,
        num_envs: int = 1,
        tasks: Sequence[Task] | None = None,
        *,
        size: int = 9,
        episode_length: int = 50,
        ends_at_door: bool = False,
        render_mode: str | None = None,
    ):
        distribution = DarkKeyToDoorTasks(size, episode_length, ends_at_door)
        self._keys, self._doors = np.full((num_envs, 2), -1), np.full((num_envs, 2), -1)
        self._has_key, self._is_open = np.zeros(num_envs, dtype=bool), np.zeros(num_envs, dtype=bool)
        self._ends_at_door = ends_at_door
        self.source_observation_space = gymnasium.spaces.MultiDiscrete([size, size, 3])
        super().__init__(
            num_envs,
            tasks,
            size=size,
            task_distribution=distribution,
            episode_length=episode_length,
            render_mode=render_mode,
        )

    def _take_tasks(self, tasks: Sequence[Task]) -> None:
        self._keys, self._doors = self.task_distribution.task_array(tasks).swapaxes(0, 1)

    def _start_episodes(self, mask: np.ndarray) -> None:
        self._positions[mask] = self.np_random.integers(self._size, size=(int(mask.sum()), 2))
        self._has_key[mask] = self._is_open[mask] = False

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._walk(actions)
        opens = self._are_at(self._doors) & self._has_key & ~self._is_open
        finds = self._are_at(self._keys) & ~self._has_key
        self._is_open |= opens
        self._has_key |= finds
        return (opens | finds).astype(np.float64), opens if self._ends_at_door else np.zeros_like(opens)

    def _observe_for_source(self) -> np.ndarray:
        return np.column_stack([self._positions, self._has_key.astype(np.int64) + self._is_open])

    def _draw(self, index: int) -> Any:
        agent, key, door = (tuple(cells[index].tolist()) for cells in (self._positions, self._keys, self._doors))
        found = bool(self._has_key[index])
        if self.render_mode == "ansi":
            letters = {door: "D"} if found else {door: "D", key: "K"}
            return draw_text(self._size, agent, letters, found)
        colours = {door: OPEN if self._is_open[index] else DOOR, **({} if found else {key: KEY})}
        return draw_picture(self._size, agent, colours if key[0] >= 0 else {}, found)


class DarkKeyToDoorEnv(TaskEnv):
    """A single room with a key and a door: [`DarkKeyToDoorVectorEnv`] with one room.

    Args:
        task (`dict`, *optional*): `{"key": [x, y], "door": [x, y]}`. Without it, one is drawn on the first reset.
        render_mode (`str`, *optional*): `"rgb_array"` or `"ansi"`.
        kwargs: As for [`DarkKeyToDoorVectorEnv`].
    """

    vector_class = DarkKeyToDoorVectorEnv
