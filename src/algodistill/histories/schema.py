"""The learning-history schema: what one row of a dataset of histories holds, and how it is laid out in Arrow."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import gymnasium
import numpy as np
import pyarrow as pa

from ..environments import Task
from ..models.spaces_algodistill import SEPARATOR, check_action_space, describe_space, leaf_name
from .spaces import leaf_spaces, smallest_dtype, space_bounds, space_width


# One row is everything that one learner did, in order. `description` columns say whose history it is, `step` columns
# have one entry (or one vector) a transition, `episode` columns one entry a completed episode.
DESCRIPTION_COLUMNS = ("id", "task", "environment", "algorithm", "seed")
STEP_COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations")
EPISODE_COLUMNS = ("episode_returns", "episode_lengths")
SPLITS = ("train", "validation", "test")
COLUMNS = DESCRIPTION_COLUMNS + STEP_COLUMNS + EPISODE_COLUMNS

# Parquet readers hold a row group in memory at once, and streaming divides a dataset among processes by row groups.
ROW_GROUP_BYTES = 8 * 2**20

# `datasets` takes a folder whose name holds one of these as a word for a split.
_SPLIT_WORDS = re.compile(
    r"(?<![^-._ 0-9])(train|training|validation|valid|val|dev|test|testing|eval|evaluation)(?![^-._ 0-9])"
)


def config_name(environment: str) -> str:
    """The name of an environment's part of a dataset (its `config` on the Hub), and of the folder that it lies in.

    `"algodistill/DarkRoom-v0"` gives `"DarkRoom-v0"`.
    """
    # `datasets` passes over folders whose names begin with a dot or an underscore.
    name = re.sub(r"[^\w.-]", "_", re.split("[/:]", environment)[-1]).lstrip("._")[:100] or "histories"
    return _SPLIT_WORDS.sub(lambda match: match.group().capitalize(), name)


def step_columns(observation_space: gymnasium.Space) -> tuple[str, ...]:
    """The columns with one entry a transition: the `STEP_COLUMNS`, or one for each leaf of nested observations."""
    columns = [leaf_name("observations", path) for path in leaf_spaces(observation_space)]
    return (*columns, *STEP_COLUMNS[1:])


def observation_columns(columns: Iterable[str]) -> list[str]:
    """Those of a dataset's columns that hold observations."""
    return [name for name in columns if name == "observations" or name.startswith(f"observations{SEPARATOR}")]


def history_features(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> datasets.Features:
    """The typed columns of histories of an environment with these spaces.

    Dict and Tuple observations have a column for each leaf, such as `observations.position`.

    Raises:
        ValueError: If histories of a space cannot be recorded.
    """
    check_action_space(describe_space(action_space), action_space)

    def steps(space: gymnasium.Space) -> Any:
        dtype, width = smallest_dtype(space).name, space_width(space)
        return datasets.List(datasets.Value(dtype)) if width is None else datasets.Array2D((None, width), dtype)

    return datasets.Features(
        {
            "id": datasets.Value("string"),
            "task": datasets.Value("string"),
            "environment": datasets.Value("string"),
            "algorithm": datasets.Value("string"),
            "seed": datasets.Value("int64"),
            **{leaf_name("observations", path): steps(leaf) for path, leaf in leaf_spaces(observation_space).items()},
            "actions": steps(action_space),
            "rewards": datasets.List(datasets.Value("float32")),
            "terminations": datasets.List(datasets.Value("bool")),
            "truncations": datasets.List(datasets.Value("bool")),
            "episode_returns": datasets.List(datasets.Value("float32")),
            "episode_lengths": datasets.List(datasets.Value("int32")),
        }
    )


def task_json(task: Task) -> str:
    """A task as it is written into the `task` column."""
    return json.dumps(task, sort_keys=True)


def history_table(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    descriptions: Sequence[Mapping[str, Any]],
    lengths: np.ndarray,
    steps: Mapping[str, np.ndarray],
) -> pa.Table:
    """Lay histories out as an Arrow table, one row each, without a Python object per transition.

    Args:
        observation_space (`gymnasium.Space`): One environment's observations.
        action_space (`gymnasium.Space`): One environment's actions.
        descriptions (`Sequence[Mapping]`): For each history, its `DESCRIPTION_COLUMNS`.
        lengths (`np.ndarray`): Transitions in each history, at least one, shape `(histories,)`.
        steps (`Mapping[str, np.ndarray]`): The [`step_columns`], each with the transitions of all histories end to
            end along the first axis.

    Raises:
        ValueError: If a column is missing, or its shape or values do not fit; the message names it.
    """
    if len(descriptions) != len(lengths) or np.min(lengths, initial=1) < 1:
        raise ValueError(f"{len(descriptions)} histories have the lengths {lengths}: expected one each, at least 1.")
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    features = history_features(observation_space, action_space)
    spaces = {leaf_name("observations", path): leaf for path, leaf in leaf_spaces(observation_space).items()}
    spaces["actions"] = action_space
    columns = step_columns(observation_space)
    for column in columns:
        if column not in steps:
            raise ValueError(f"The histories lack the column {column!r}: expected {list(columns)}.")
        _check_steps(column, steps[column], total, spaces.get(column))
    dones = steps["terminations"].astype(bool) | steps["truncations"].astype(bool)
    episodes = _episode_columns(ends, steps["rewards"], dones)

    offsets = pa.array(np.append(0, ends), pa.int32())
    arrays: dict[str, pa.Array] = {}
    for column in DESCRIPTION_COLUMNS:
        arrays[column] = pa.array([description[column] for description in descriptions], features[column].pa_type)
    for column in columns:
        feature = features[column]
        if isinstance(feature, datasets.Array2D):
            width = feature.shape[1]
            values = pa.array(steps[column].astype(feature.dtype, copy=False).reshape(-1))
            rows = pa.ListArray.from_arrays(pa.array(np.arange(0, total * width + 1, width), pa.int32()), values)
            arrays[column] = pa.ExtensionArray.from_storage(feature(), pa.ListArray.from_arrays(offsets, rows))
        else:
            values = pa.array(steps[column].astype(feature.feature.pa_type.to_pandas_dtype(), copy=False))
            arrays[column] = pa.ListArray.from_arrays(offsets, values)
    for column, (values, episode_offsets) in episodes.items():
        arrays[column] = pa.ListArray.from_arrays(pa.array(episode_offsets, pa.int32()), pa.array(values))
    return pa.Table.from_arrays([arrays[column] for column in features], schema=features.arrow_schema)


def _check_steps(column: str, values: np.ndarray, total: int, space: gymnasium.Space | None) -> None:
    """Arrow takes wrong widths and the storage type wrong values without a word, so they are checked here."""
    expected = (total, *((space.shape or ()) if space is not None else ()))
    if values.shape != expected:
        raise ValueError(f"{column} have the shape {values.shape}, expected {expected} for {total} transitions.")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{column} have the type {values.dtype}: expected numbers.")
    if space is None or smallest_dtype(space).kind == "f":
        # Real numbers are stored in half their usual size, where large ones become infinite.
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32, copy=False))
        if not finite.all():
            raise ValueError(f"{column} hold {values[~finite][0]}: expected finite numbers, which fit into float32.")
        return
    low, high = space_bounds(space)
    wrong = (values < low) | (values > high) | (values != np.floor(values) if values.dtype.kind == "f" else False)
    # There is no larger type than int64 to store whole numbers in.
    wrong |= values > np.iinfo(np.int64).max
    if wrong.any():
        raise ValueError(f"{column} hold {values[wrong][0]}, which lies outside the space {space}.")


def _episode_columns(
    ends: np.ndarray, rewards: np.ndarray, dones: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values and row offsets of the `EPISODE_COLUMNS`. An episode that a history breaks off counts as none."""
    last_steps = np.flatnonzero(dones)
    # An episode begins after the last one's end, or with its history.
    history = np.searchsorted(ends, last_steps, side="right")
    history_starts = np.append(0, ends[:-1])[history]
    first_steps = np.maximum(np.append(0, last_steps[:-1] + 1), history_starts)
    totals = np.append(0.0, np.cumsum(rewards, dtype=np.float64))
    offsets = np.append(0, np.cumsum(np.bincount(history, minlength=len(ends))))
    returns = (totals[last_steps + 1] - totals[first_steps]).astype(np.float32)
    return {
        "episode_returns": (returns, offsets),
        "episode_lengths": ((last_steps + 1 - first_steps).astype(np.int32), offsets),
    }
