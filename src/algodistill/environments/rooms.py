"""Dark rooms: square rooms of cells in which one sees nothing but one's own position."""

import operator
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from .vectorised import TaskVectorEnv


ACTIONS = ("no-op", "up", "down", "left", "right")
# Change of (x, y) by each action; y grows downwards, as the room is drawn.
MOVES = np.array([[0, 0], [0, -1], [0, 1], [-1, 0], [1, 0]])

CELL_PIXELS = 24
FLOOR, LINE, AGENT, FOUND = (245, 245, 240), (214, 214, 206), (46, 94, 170), (24, 110, 70)

Cell = tuple[int, int]


def check_numbers(**numbers: Any) -> None:
    """Raise a `ValueError` if one is not a whole number of at least 1."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} is not a room's: expected a whole number of at least 1.")


def check_cell(value: Any, size: int, name: str) -> Cell:
    """`value` as a cell (x, y) of a room of `size` x `size`; raise a `ValueError` if it is none."""
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


def random_walk(size: int) -> np.ndarray:
    """Probabilities of uniformly random actions to lead from cell to cell, `(cells, cells)`, cells row by row."""
    cells = size * size
    transition = np.zeros((cells, cells))
    for cell in range(cells):
        for x, y in np.clip(np.array([cell % size, cell // size]) + MOVES, 0, size - 1):
            transition[cell, y * size + x] += 1 / len(MOVES)
    return transition


def shortest_ways(cells: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """First actions of shortest ways, `(n,)`, drawn evenly among these; no-op for whoever has arrived.

    Args:
        cells (`np.ndarray`): Where the ways begin, `(n, 2)`.
        targets (`np.ndarray`): Where they lead to, `(n, 2)`.
        rng (`numpy.random.Generator`): Chooses among ways that are equally short.
    """
    dx, dy = (targets - cells).T
    horizontally = rng.random(len(cells)) * (abs(dx) + abs(dy)) < abs(dx)
    sideways = np.where(dx < 0, ACTIONS.index("left"), ACTIONS.index("right"))
    lengthways = np.where(dy < 0, ACTIONS.index("up"), ACTIONS.index("down"))
    way = np.where(horizontally, sideways, lengthways)
    return np.where((dx == 0) & (dy == 0), ACTIONS.index("no-op"), way)


class RoomVectorEnv(TaskVectorEnv):
    """Rooms in which an agent walks: observations are its cell (x, y), actions are no-op, up, down, left, right.

    Args:
        num_envs (`int`): Number of rooms.
        size (`int`): Cells along a side.
        kwargs: As for [`TaskVectorEnv`].
    """

    def __init__(self, num_envs: int, *args: Any, size: int, **kwargs: Any):
        self._size = size
        self._positions = np.zeros((num_envs, 2), dtype=np.int64)
        super().__init__(
            num_envs,
            *args,
            observation_space=gymnasium.spaces.MultiDiscrete([size, size]),
            action_space=gymnasium.spaces.Discrete(len(ACTIONS)),
            **kwargs,
        )

    def _walk(self, actions: np.ndarray) -> None:
        self._positions += MOVES[actions]
        np.clip(self._positions, 0, self._size - 1, out=self._positions)

    def _are_at(self, cells: np.ndarray) -> np.ndarray:
        """Which agents are at their cell of `cells`, `(num_envs, 2)`."""
        return (self._positions[:, 0] == cells[:, 0]) & (self._positions[:, 1] == cells[:, 1])

    def _observe(self) -> np.ndarray:
        return self._positions.copy()


def draw_text(size: int, agent: Cell, letters: Mapping[Cell, str], found: bool) -> str:
    """The room in letters: `A` the agent, `*` the agent where it has found what it looks for."""

    def letter(cell: Cell) -> str:
        if cell == agent:
            return "*" if found else "A"
        return letters.get(cell, ".")

    return "\n".join(" ".join(letter((x, y)) for x in range(size)) for y in range(size)) + "\n"


def draw_picture(size: int, agent: Cell, colours: Mapping[Cell, tuple[int, int, int]], found: bool) -> np.ndarray:
    """The room as an RGB picture: coloured cells, and a blue agent that turns dark green on finding something."""
    picture = np.full((size * CELL_PIXELS + 1, size * CELL_PIXELS + 1, 3), FLOOR, dtype=np.uint8)
    for (x, y), colour in colours.items():
        picture[y * CELL_PIXELS : (y + 1) * CELL_PIXELS, x * CELL_PIXELS : (x + 1) * CELL_PIXELS] = colour
    picture[::CELL_PIXELS] = LINE
    picture[:, ::CELL_PIXELS] = LINE
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    centre_x, centre_y = (coordinate * CELL_PIXELS + CELL_PIXELS / 2 for coordinate in agent)
    disc = (columns - centre_x) ** 2 + (rows - centre_y) ** 2 <= (CELL_PIXELS * 0.34) ** 2
    picture[disc] = FOUND if found else AGENT
    return picture
