"""Observation and action spaces without gymnasium: as JSON, taken apart into leaves, and their elements as numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


DISCRETE = ("Discrete", "MultiDiscrete", "MultiBinary")
NESTED = ("Dict", "Tuple")
BINNINGS = ("uniform", "mu_law")
# Compression of the mu-law, as telephones have it (ITU-T G.711).
MU = 255
# What stands between the names of the spaces that a leaf lies in.
SEPARATOR = "."


def describe_space(space: Any) -> dict[str, Any]:
    """A gymnasium space as JSON; a description is returned as it is.

    Raises:
        ValueError: If the space, or a leaf of it, is neither Discrete, MultiDiscrete, MultiBinary nor Box.
    """
    return _describe(space, space, "")


def _describe(whole: Any, space: Any, path: str) -> dict[str, Any]:
    if isinstance(space, Mapping) and space.get("type") in (*DISCRETE, *NESTED, "Box"):
        return dict(space)
    kinds = [kind.__name__ for kind in type(space).__mro__]
    kind = next((kind for kind in kinds if kind in (*DISCRETE, *NESTED, "Box")), None)
    where = f"its part {path!r} is {space}: " if path else ""
    if kind == "Discrete":
        return {"type": kind, "n": int(space.n), "start": int(space.start), "dtype": space.dtype.name}
    if kind == "MultiDiscrete":
        described = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": kind, **described, "dtype": space.dtype.name}
    if kind == "MultiBinary":
        return {"type": kind, "shape": list(space.shape), "dtype": space.dtype.name}
    if kind == "Box":
        if 0 in space.shape:
            raise ValueError(f"The space {whole} cannot be used: {where}an element of it holds no number.")
        bounds = {
            "low": _describe_bounds(space.low, space.bounded_below),
            "high": _describe_bounds(space.high, space.bounded_above),
        }
        return {"type": kind, "shape": list(space.shape), **bounds, "dtype": space.dtype.name}
    if kind is None:
        raise ValueError(
            f"The space {whole} cannot be used: {where}expected Discrete, MultiDiscrete, MultiBinary or Box, or "
            "for observations a Dict or Tuple of these."
        )
    parts = dict(space.spaces) if kind == "Dict" else dict(enumerate(space.spaces))
    if not parts:
        raise ValueError(f"The space {whole} cannot be used: {where}it has no part.")
    for name in parts:
        if kind == "Dict" and (not isinstance(name, str) or not name or SEPARATOR in name):
            raise ValueError(
                f"The space {whole} cannot be used: the name {name!r} of a part cannot stand in a column's "
                f"name, expected a string without {SEPARATOR!r}."
            )
    described_parts = {name: _describe(whole, parts[name], _join(path, name)) for name in sorted(parts)}
    return {"type": kind, "spaces": described_parts if kind == "Dict" else list(described_parts.values())}


def _describe_bounds(bounds: np.ndarray, bounded: np.ndarray) -> Any:
    """Bounds of a Box as one number if they are all alike, else as a list; `None` stands for no bound."""
    pairs = zip(bounds.reshape(-1).tolist(), bounded.reshape(-1).tolist(), strict=True)
    numbers = [bound if there else None for bound, there in pairs]
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _join(path: str, name: Any) -> str:
    return f"{path}{SEPARATOR}{name}" if path else str(name)


def _parts(space: Mapping[str, Any]) -> dict[Any, Mapping[str, Any]]:
    """The spaces that a described Dict or Tuple is made of."""
    spaces = space["spaces"]
    return {name: spaces[name] for name in sorted(spaces)} if space["type"] == "Dict" else dict(enumerate(spaces))


def leaf_spaces(space: Mapping[str, Any], path: str = "") -> dict[str, Mapping[str, Any]]:
    """The leaves of a described space by their paths, such as `"arm.position"` or `"0"`; a plain space has `""`."""
    if space["type"] not in NESTED:
        return {path: space}
    found: dict[str, Mapping[str, Any]] = {}
    for name, part in _parts(space).items():
        found.update(leaf_spaces(part, _join(path, name)))
    return found


def leaves(space: Mapping[str, Any], value: Any, name: str = "observations") -> dict[str, Any]:
    """Take elements of a described space apart into its leaves.

    Args:
        space (`Mapping`): The described space.
        value: A dict for a Dict, a tuple or list for a Tuple, and so on down to the leaves, which are not looked at;
            or a dict from paths to leaves, as windows have them.
        name (`str`, *optional*, defaults to `"observations"`): What the value is called in messages.

    Returns:
        `dict[str, Any]`: The leaves by their paths, in the order of [`leaf_spaces`].

    Raises:
        ValueError: If the value has other parts than the space.
    """
    if space["type"] not in NESTED and not isinstance(value, Mapping):
        return {"": value}
    paths = leaf_spaces(space)
    if isinstance(value, Mapping) and set(value) == set(paths):
        return {path: value[path] for path in paths}
    return _take_apart(space, value, "", name)


def _take_apart(space: Mapping[str, Any], value: Any, path: str, name: str) -> dict[str, Any]:
    if space["type"] not in NESTED:
        return {path: value}
    parts, where = _parts(space), _join(name, path) if path else name
    if space["type"] == "Dict":
        if not isinstance(value, Mapping) or set(value) != set(parts):
            found = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f"{where} are {found}, expected a dict with the parts {list(parts)}.")
    elif not isinstance(value, Sequence) or isinstance(value, str) or len(value) != len(parts):
        found = f"{len(value)} parts" if isinstance(value, tuple | list) else type(value).__name__
        raise ValueError(f"{where} are {found}, expected a tuple of {len(parts)} parts.")
    apart: dict[str, Any] = {}
    for part, inner in parts.items():
        apart.update(_take_apart(inner, value[part], _join(path, part), name))
    return apart


def leaf_name(name: str, path: str) -> str:
    """What a leaf is called in messages and columns: `"observations.position"`, or `"observations"` of a plain one."""
    return _join(name, path) if path else name


def shape_of(space: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of one element of a described leaf."""
    return tuple(space["shape"]) if space["type"] in ("MultiBinary", "Box") else np.shape(space.get("nvec", 0))


def width_of(space: Mapping[str, Any]) -> int:
    """Numbers in one element of a described leaf."""
    return int(np.prod(shape_of(space), dtype=int))


def sizes_of(space: Mapping[str, Any]) -> np.ndarray:
    """Number of values of each dimension of a described discrete leaf, shape `(dimensions,)`."""
    if space["type"] == "MultiBinary":
        return np.full(width_of(space), 2)
    return np.atleast_1d(space["n"] if space["type"] == "Discrete" else space["nvec"]).reshape(-1)


def starts_of(space: Mapping[str, Any]) -> np.ndarray:
    """Smallest value of each dimension of a described discrete leaf, shape `(dimensions,)`."""
    return np.broadcast_to(np.asarray(space.get("start", 0)), shape_of(space)).reshape(-1)


def bounds_of(space: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of each dimension of a described Box, shape `(dimensions,)` each; infinite where there is none."""
    low, high = (
        np.broadcast_to(np.asarray(space[name], dtype=np.float64), (width_of(space),)) for name in ("low", "high")
    )
    return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)


def flatten(name: str, values: Any, space: Mapping[str, Any], leading: int) -> np.ndarray:
    """Elements of a described leaf as rows of numbers, shape `(*leading axes, dimensions)`.

    Elements of several axes may come flattened to one, as histories are stored.

    Raises:
        ValueError: If the values have another shape, or are not of a type that fits the space.
    """
    values = np.asarray(values)
    shape, width = shape_of(space), width_of(space)
    fits = values.ndim == leading + len(shape) and values.shape[leading:] == shape
    if not fits and not (len(shape) > 1 and values.ndim == leading + 1 and values.shape[leading:] == (width,)):
        raise ValueError(
            f"{name} have the shape {values.shape}: expected {leading} leading {'axis' if leading == 1 else 'axes'} "
            f"followed by {shape}, one element of {space}."
        )
    if values.dtype.kind not in ("biuf" if space["type"] == "Box" else "iub"):
        kind = "numbers" if space["type"] == "Box" else "whole numbers"
        raise ValueError(f"{name} have the type {values.dtype}: expected {kind}, elements of {space}.")
    return values.reshape(*values.shape[:leading], width)


def encode_discrete(name: str, values: Any, space: Mapping[str, Any], leading: int) -> np.ndarray:
    """Elements of a described discrete leaf as indices counted from 0, shape `(*leading axes, dimensions)`.

    Raises:
        ValueError: If the values have another shape, are not whole numbers, or lie outside the space.
    """
    indices = flatten(name, values, space, leading).astype(np.int64) - starts_of(space)
    outside = (indices < 0) | (indices >= sizes_of(space))
    if outside.any():
        where = tuple(np.argwhere(outside.any(axis=-1))[0].tolist())
        found = np.asarray(values)[where].tolist()
        raise ValueError(f"{name} hold {found} at {list(where)}, which lies outside the space {space}.")
    return indices


def numbers_of(name: str, values: Any, space: Mapping[str, Any], leading: int) -> np.ndarray:
    """Elements of a described Box as float64, shape `(*leading axes, dimensions)`.

    Real numbers are rounded to float32 first, which is what histories are stored in: what an agent sees is then
    exactly what it was trained on.

    Raises:
        ValueError: If the values have another shape, are no numbers or are not finite.
    """
    numbers = flatten(name, values, space, leading)
    if numbers.dtype.kind == "f":
        with np.errstate(over="ignore"):
            numbers = numbers.astype(np.float32)
        finite = np.isfinite(numbers).all(axis=-1)
        if not finite.all():
            where = tuple(np.argwhere(~finite)[0].tolist())
            found = np.asarray(values)[where].tolist()
            raise ValueError(f"{name} hold {found} at {list(where)}: expected finite numbers, which fit into float32.")
    return numbers.astype(np.float64)


def check_action_space(space: Mapping[str, Any], shown: Any) -> None:
    """Raise a `ValueError`, which shows the space as the user knows it, if its actions cannot be predicted."""
    if space["type"] in NESTED:
        raise ValueError(
            f"Actions of the space {shown} cannot be used: expected Discrete, MultiDiscrete, MultiBinary or a "
            "bounded Box."
        )
    if space["type"] == "Box" and not np.isfinite(np.concatenate(bounds_of(space))).all():
        raise ValueError(
            f"Actions of the space {shown} cannot be used: a Box of actions is divided into bins between its "
            "bounds, expected finite ones (gymnasium.wrappers.TransformAction can set them)."
        )


def mu_law_expand(values: np.ndarray) -> np.ndarray:
    """Numbers in [-1, 1] from what the mu-law compressed them to: sign(y) ((1 + mu)^|y| - 1) / mu."""
    return np.sign(values) * np.expm1(np.abs(values) * np.log1p(MU)) / MU


class ActionBins:
    """Bins of the dimensions of a bounded Box, by which its actions become indices and back.

    The centres of a dimension's `bins` bins go from its lower bound to its upper one, both included: what is best is
    often to push as hard as one can. They are equally far apart (`"uniform"`), or equally far after the mu-law
    sign(x) ln(1 + mu |x|) / ln(1 + mu), mu = 255, which brings them closer to each other near the middle of the range
    (`"mu_law"`). An action lies in the bin whose centre is nearest. Whole numbers of which there are no more than bins
    have one each.

    Args:
        space (`Mapping`): A described Box with finite bounds.
        bins (`int`): Bins of a dimension, at least 2.
        binning (`str`): `"uniform"` or `"mu_law"`.

    Attributes:
        sizes (`list[int]`): Bins of each dimension.
    """

    def __init__(self, space: Mapping[str, Any], bins: int, binning: str):
        self._space, dtype = space, np.dtype(space["dtype"])
        low, high = bounds_of(space)
        places = np.linspace(-1, 1, bins)
        places = mu_law_expand(places) if binning == "mu_law" else places
        # Of each dimension, the centres in the Box's own type, and the edges between the bins.
        self._dimensions = [_bins(*bounds, places, dtype) for bounds in zip(low.tolist(), high.tolist(), strict=True)]
        self.sizes = [len(centres) for centres, _ in self._dimensions]
        # As a table, shape `(dimensions, bins)`, which a dimension with fewer bins does not fill.
        self._centres = np.zeros((len(self.sizes), max(self.sizes)), dtype)
        for row, (centres, _) in zip(self._centres, self._dimensions, strict=True):
            row[: len(centres)] = centres

    def encode(self, name: str, values: Any, leading: int) -> np.ndarray:
        """The bins that actions lie in, shape `(*leading axes, dimensions)`; those beyond the bounds in the last ones.

        Raises:
            ValueError: If the actions have another shape or are not finite.
        """
        numbers = numbers_of(name, values, self._space, leading)
        bins = [np.searchsorted(edges, numbers[..., i], "right") for i, (_, edges) in enumerate(self._dimensions)]
        return np.stack(bins, axis=-1)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """The centres of bins, as elements of the Box flattened to `(actions, dimensions)`."""
        return self._centres[np.arange(len(self.sizes)), indices]


def _bins(low: float, high: float, places: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the bins of one dimension, ascending and of the type given, and the edges between them."""
    whole = dtype.kind != "f"
    if whole and high - low < len(places):
        centres = np.arange(int(low), int(high) + 1)
    else:
        centres = np.clip(low + (places + 1) / 2 * (high - low), low, high)
        # Real numbers are recorded as float32, and must be told apart there: narrower bins become one.
        centres = np.unique(np.rint(centres) if whole else np.clip(centres.astype(np.float32), low, high))
    exact = centres.astype(np.float64)
    return centres.astype(dtype), (exact[:-1] + exact[1:]) / 2
