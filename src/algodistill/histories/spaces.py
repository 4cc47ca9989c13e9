"""Observation and action spaces as columns: the leaves of nested spaces, and the types that hold their elements."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple


LEAVES = (Discrete, MultiDiscrete, MultiBinary, Box)
# What stands between the names of the spaces that a leaf lies in.
SEPARATOR = "."


def leaf_spaces(space: gymnasium.Space) -> dict[str, gymnasium.Space]:
    """The leaves of a nested space by their paths, such as `"arm.position"` or `"0"`; a plain space has the path `""`.

    The parts of a Dict are taken in the order of their sorted names, whichever order it was made in.

    Raises:
        ValueError: If a leaf is neither Discrete, MultiDiscrete, MultiBinary nor Box; a space is empty; or a name of a
            Dict is no string, is empty or has a dot in it.
    """
    leaves: dict[str, gymnasium.Space] = {}
    _collect_leaves(space, space, "", leaves)
    return leaves


def _collect_leaves(whole: gymnasium.Space, space: Any, path: str, leaves: dict[str, gymnasium.Space]) -> None:
    where = f"its part {path!r} is {space}: " if path else ""
    if isinstance(space, LEAVES):
        if 0 in (space.shape or ()):
            raise ValueError(f"Histories of {whole} cannot be recorded: {where}an element of it holds no number.")
        leaves[path] = space
        return
    if not isinstance(space, Dict | Tuple):
        raise ValueError(
            f"Histories of {whole} cannot be recorded: {where}expected a Discrete, MultiDiscrete, MultiBinary or Box "
            "space, or a Dict or Tuple of these."
        )
    parts: dict[Any, gymnasium.Space] = (
        dict(space.spaces) if isinstance(space, Dict) else dict(enumerate(space.spaces))
    )
    if not parts:
        raise ValueError(f"Histories of {whole} cannot be recorded: {where}it has no part.")
    for name in parts:
        if isinstance(space, Dict) and (not isinstance(name, str) or not name or SEPARATOR in name):
            raise ValueError(
                f"Histories of {whole} cannot be recorded: the name {name!r} of a part cannot stand in a column's "
                f"name, expected a string without {SEPARATOR!r}."
            )
    for name in sorted(parts):
        _collect_leaves(whole, parts[name], f"{path}{SEPARATOR}{name}" if path else str(name), leaves)


def leaves(space: gymnasium.Space, value: Any, name: str = "observations") -> dict[str, Any]:
    """Take an element of a space apart, or a batch of elements as vector environments give it, into its leaves.

    Args:
        space (`gymnasium.Space`): The space.
        value: A dict for a Dict, a tuple or list for a Tuple, and so on down to the leaves, which are not looked at;
            or a dict from paths to leaves.
        name (`str`, *optional*, defaults to `"observations"`): What the value is called in messages.

    Returns:
        `dict[str, Any]`: The leaves by their paths, in the order of [`leaf_spaces`].

    Raises:
        ValueError: If the value has other parts than the space.
    """
    paths = leaf_spaces(space)
    if "" in paths:
        return {"": value}
    if isinstance(value, Mapping) and set(value) == set(paths):
        return {path: value[path] for path in paths}
    found: dict[str, Any] = {}
    _take_apart(space, value, "", name, found)
    return found


def _take_apart(space: Any, value: Any, path: str, name: str, found: dict[str, Any]) -> None:
    if isinstance(space, LEAVES):
        found[path] = value
        return
    where = f"{name}{SEPARATOR}{path}" if path else name
    parts: dict[Any, Any]
    if isinstance(space, Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            found_parts = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f"{where} are {found_parts}, expected a dict with the parts {sorted(space.spaces)}.")
        parts = space.spaces
    else:
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(space.spaces):
            kind = f"{len(value)} parts" if isinstance(value, tuple | list) else type(value).__name__
            raise ValueError(f"{where} are {kind}, expected a tuple of {len(space.spaces)} parts.")
        parts = dict(enumerate(space.spaces))
    for part in sorted(parts):
        _take_apart(parts[part], value[part], f"{path}{SEPARATOR}{part}" if path else str(part), name, found)


def leaf_column(column: str, path: str) -> str:
    """The name of the column that holds a leaf: `"observations.position"`, or `"observations"` for a plain space."""
    return f"{column}{SEPARATOR}{path}" if path else column


def check_action_space(space: gymnasium.Space) -> None:
    """Raise a `ValueError` if actions of this space cannot be predicted: it is nested, or a Box without bounds."""
    if list(leaf_spaces(space)) != [""]:
        raise ValueError(
            f"Histories with actions of {space} cannot be recorded: expected a Discrete, MultiDiscrete, MultiBinary "
            "or bounded Box space."
        )
    if isinstance(space, Box) and not space.is_bounded():
        raise ValueError(
            f"Histories with actions of {space} cannot be recorded: a Box of actions is divided into bins between "
            "its bounds, expected finite ones (gymnasium.wrappers.TransformAction can set them)."
        )


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
