"""Observation and action spaces as columns: the leaves of nested spaces, and the types that hold their elements."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Tuple

from ..models import spaces_algodistill as described


def leaf_spaces(space: gymnasium.Space) -> dict[str, gymnasium.Space]:
    """The leaves of a nested space by their paths, such as `"arm.position"` or `"0"`; a plain space has the path `""`.

    The parts of a Dict are taken in the order of their sorted names, whichever order it was made in.

    Raises:
        ValueError: If a leaf is neither Discrete, MultiDiscrete, MultiBinary nor Box; a space is empty; or a name of a
            Dict is no string, is empty or has a dot in it.
    """
    return {path: _leaf_at(space, path) for path in described.leaf_spaces(described.describe_space(space))}


def _leaf_at(space: Any, path: str) -> gymnasium.Space:
    for name in path.split(described.SEPARATOR) if path else ():
        space = space.spaces[int(name) if isinstance(space, Tuple) else name]
    return space


def flat_columns(observation_space: Any, steps: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a dataset from transitions whose `observations` may be nested as their space is.

    Args:
        observation_space (`gymnasium.Space` or `dict`): One environment's observations, or what [`describe_space`]
            makes of them.
        steps (`Mapping`): `observations` and other columns.

    Raises:
        ValueError: If the observations have other parts than the space.
    """
    columns = {name: values for name, values in steps.items() if name != "observations"}
    if "observations" in steps:
        space = described.describe_space(observation_space)
        for path, leaf in described.leaves(space, steps["observations"]).items():
            columns[described.leaf_name("observations", path)] = leaf
    return columns


def space_bounds(space: gymnasium.Space) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest element of a plain space, of the space's shape.

    Raises:
        ValueError: If the space is neither Discrete, MultiDiscrete, MultiBinary nor Box.
    """
    if isinstance(space, Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    if isinstance(space, MultiBinary):
        return np.zeros(space.shape, np.int64), np.ones(space.shape, np.int64)
    if isinstance(space, Box):
        return space.low, space.high
    raise ValueError(
        f"Histories of {space} cannot be recorded: expected a Discrete, MultiDiscrete, MultiBinary or Box space."
    )


def smallest_dtype(space: gymnasium.Space) -> np.dtype:
    """The type that a plain space is recorded in: float32 for a Box of real numbers, else the smallest integers."""
    low, high = space_bounds(space)
    if low.dtype.kind == "f":
        return np.dtype("float32")
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32"):
        limits = np.iinfo(name)
        if limits.min <= low.min() and high.max() <= limits.max:
            return np.dtype(name)
    return np.dtype("int64")


def space_width(space: gymnasium.Space) -> int | None:
    """Numbers in one element of a plain space; `None` for a scalar."""
    return int(np.prod(space.shape)) if space.shape else None
