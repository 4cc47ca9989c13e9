"""The learning-history schema: what one row of a dataset of histories holds, and how it is laid out in Arrow."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import gymnasium
import numpy as np
import pyarrow as pa
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete

from ..environments import Task


# One row is everything that one learner did, in order. `description` columns say whose history it is, `step` columns
# have one entry (or one vector) a transition, `episode` columns one entry a completed episode.
DESCRIPTION_COLUMNS = ("id", "task", "environment", "algorithm", "seed")
STEP_COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations")
EPISODE_COLUMNS = ("episode_returns", "episode_lengths")
COLUMNS = DESCRIPTION_COLUMNS + STEP_COLUMNS + EPISODE_COLUMNS

# Parquet readers hold a row group in memory at once.
ROW_GROUP_BYTES = 64 * 2**20


def smallest_dtype(space: gymnasium.Space) -> np.dtype:
    """The smallest integer type that holds every element of a discrete space."""
    if isinstance(space, Discrete):
        low, high = int(space.start), int(space.start + space.n - 1)
    elif isinstance(space, MultiDiscrete):
        low, high = int(space.start.min()), int((space.start + space.nvec - 1).max())
    elif isinstance(space, MultiBinary):
        low, high = 0, 1
    else:
        raise ValueError(
            f"Histories of {space} cannot be recorded: expected a Discrete, MultiDiscrete or MultiBinary space."
        )
    return np.result_type(np.min_scalar_type(low), np.min_scalar_type(high))


def space_width(space: gymnasium.Space) -> int | None:
    """Numbers in one element of the space; `None` for a scalar."""
    return None if space.shape == () else int(np.prod(space.shape))


def history_features(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> datasets.Features:
    """The typed columns of histories of an environment with these spaces."""

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
            "observations": steps(observation_space),
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
    features: datasets.Features,
    descriptions: Sequence[Mapping[str, Any]],
    lengths: np.ndarray,
    steps: Mapping[str, np.ndarray],
) -> pa.Table:
    """Lay histories out as an Arrow table, one row each, without a Python object per transition.

    Args:
        features (`datasets.Features`): The columns, from [`history_features`].
        descriptions (`Sequence[Mapping]`): For each history, its `DESCRIPTION_COLUMNS`.
        lengths (`np.ndarray`): Transitions in each history, shape `(histories,)`.
        steps (`Mapping[str, np.ndarray]`): The `STEP_COLUMNS`, each with the transitions of all histories end to end:
            shape `(sum of lengths,)` or `(sum of lengths, width)`.
    """
    ends = np.cumsum(lengths)
    offsets = pa.array(np.append(0, ends), pa.int32())
    total = int(ends[-1])
    episodes = _episode_columns(ends, steps["rewards"], steps["terminations"] | steps["truncations"])

    arrays: dict[str, pa.Array] = {}
    for column in DESCRIPTION_COLUMNS:
        arrays[column] = pa.array([description[column] for description in descriptions], features[column].pa_type)
    for column in STEP_COLUMNS:
        feature = features[column]
        if isinstance(feature, datasets.Array2D):
            width = feature.shape[1]
            values = _flat_values(column, steps[column], feature.dtype, (total, width))
            rows = pa.ListArray.from_arrays(pa.array(np.arange(0, total * width + 1, width), pa.int32()), values)
            storage = pa.ListArray.from_arrays(offsets, rows)
            arrays[column] = pa.ExtensionArray.from_storage(feature(), storage)
        else:
            values = _flat_values(column, steps[column], feature.feature.dtype, (total,))
            arrays[column] = pa.ListArray.from_arrays(offsets, values)
    for column, (values, episode_offsets) in episodes.items():
        arrays[column] = pa.ListArray.from_arrays(pa.array(episode_offsets, pa.int32()), pa.array(values))
    return pa.Table.from_arrays([arrays[column] for column in features], schema=features.arrow_schema)


def _flat_values(column: str, values: np.ndarray, dtype: str, shape: tuple[int, ...]) -> pa.Array:
    # Array2D accepts a wrong width without a word, so it is checked here.
    if values.shape != shape:
        raise ValueError(f"{column} have the shape {values.shape}, expected {shape}.")
    narrow = values.astype("bool_" if dtype == "bool" else dtype, copy=False)
    if narrow.dtype != values.dtype and values.dtype.kind in "iu" and not np.array_equal(narrow, values):
        raise ValueError(f"{column} hold values that do not fit into {dtype}: they lie outside the space.")
    return pa.array(narrow.reshape(-1))


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
