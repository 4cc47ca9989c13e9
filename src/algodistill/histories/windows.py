"""Reading windows of transitions out of learning histories, without copying a history into memory."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from .schema import COLUMNS


Window = dict[str, np.ndarray]


class HistoryWindows(Dataset):
    """Windows of `length` consecutive transitions of learning histories, as a map-style dataset.

    An epoch has as many windows as it takes to cover every transition about once: a history of T transitions gives
    ceil(T / length) windows, each of which starts at the history's beginning with probability `start_share` and
    elsewhere uniformly. Window `index` of an epoch depends on `seed`, the epoch and `index` alone. A window never
    crosses into another history; one that is shorter than `length` holds a whole history.

    With an `episode_stride` k, the histories are those that would have been recorded had only every k-th episode
    happened: kept episodes follow each other directly, and the first transition of one is preceded by the last
    of the episode kept before it.

    Each window is a dict of arrays:

    | key | shape | |
    |---|---|---|
    | `observations` | `(steps, ...)` | what the learner saw |
    | `actions` | `(steps, ...)` | what it did |
    | `rewards` | `(steps,)` | what it got for that |
    | `episode_starts` | `(steps,)` | whether an episode starts with this step |
    | `previous_action` | `(...)` | the action before the window; zeros at a history's beginning |
    | `previous_reward` | `()` | the reward before the window; 0 at a history's beginning |
    | `history_start` | `()` | whether the window starts at the history's beginning |
    | `seed` | `()` | a number of this window's own, for whoever draws something for it |

    Args:
        dataset (`datasets.Dataset`): Learning histories, one a row, as [`HistoryWriter`] writes them.
        length (`int`): Transitions in a window.
        episode_stride (`int`, *optional*, defaults to `1`): Keep every k-th episode.
        first_episode (`int`, *optional*, defaults to `0`): First episode to keep.
        last_episode (`int`, *optional*): Last episode to keep (inclusive); by default the history's last.
        start_share (`float`, *optional*, defaults to `0.0`): Probability that a window starts at its history's
            beginning.
        seed (`int`, *optional*, defaults to `0`): Seed of the choice of windows.

    Raises:
        ValueError: If the dataset lacks a column or holds no transition, or an argument is out of its range.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        length: int,
        *,
        episode_stride: int = 1,
        first_episode: int = 0,
        last_episode: int | None = None,
        start_share: float = 0.0,
        seed: int = 0,
    ):
        if isinstance(dataset, datasets.DatasetDict):
            raise ValueError(
                f"That is a dataset with the splits {list(dataset)}: choose one, such as dataset['train']."
            )
        missing = [column for column in COLUMNS if column not in dataset.column_names]
        if missing:
            raise ValueError(
                f"The dataset lacks the columns {missing}: learning histories have {list(COLUMNS)}, one history a row."
            )
        for name, value, low in (
            ("length", length, 1),
            ("episode_stride", episode_stride, 1),
            ("first_episode", first_episode, 0),
            ("seed", seed, 0),
        ):
            if value < low:
                raise ValueError(f"{name}={value} is out of range: expected at least {low}.")
        if last_episode is not None and last_episode < first_episode:
            raise ValueError(f"last_episode={last_episode} comes before first_episode={first_episode}.")
        if not 0 <= start_share <= 1:
            raise ValueError(f"start_share={start_share} is out of range: expected a number from 0 to 1.")
        self.length, self.start_share, self.seed, self.epoch = length, start_share, seed, 0
        self._kept = slice(first_episode, None if last_episode is None else last_episode + 1, episode_stride)
        self._features = dataset.features
        self._table = dataset.select_columns(["observations", "actions", "rewards", "episode_lengths"]).with_format(
            "arrow"
        )

        self.transitions = np.array([self._count_transitions(row) for row in self._read_episode_lengths()], np.int64)
        self._window_ends = np.cumsum(-(-self.transitions // length))
        if len(self.transitions) == 0 or self._window_ends[-1] == 0:
            raise ValueError(
                f"No transition is left to read: {len(dataset)} histories, of which episodes {first_episode} to "
                f"{'the last' if last_episode is None else last_episode} are kept."
            )

    def _read_episode_lengths(self) -> Any:
        """The episode lengths of every history, with what is left over of an episode that was broken off."""
        columns = self._table.select_columns(["rewards", "episode_lengths"])
        for table in columns.iter(batch_size=1000):
            steps = pa.compute.list_value_length(table["rewards"]).to_numpy()
            for total, lengths in zip(steps, table["episode_lengths"].combine_chunks(), strict=True):
                yield _with_unfinished(lengths.values.to_numpy(), total)

    def _count_transitions(self, episode_lengths: np.ndarray) -> int:
        return int(episode_lengths[self._kept].sum())

    def __len__(self) -> int:
        return int(self._window_ends[-1])

    def set_epoch(self, epoch: int) -> None:
        """Draw the windows of another epoch."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        rng = np.random.default_rng([self.seed, self.epoch, index])
        history = int(np.searchsorted(self._window_ends, index, side="right"))
        starts_with_history, seed = rng.random() < self.start_share, rng.integers(2**63)
        last_start = max(int(self.transitions[history]) - self.length, 0)
        start = 0 if starts_with_history else int(rng.integers(last_start + 1))
        return {**self.read(history, start), "seed": np.asarray(seed)}

    def read(self, history: int, start: int) -> Window:
        """The window of the `history`-th row that starts with its `start`-th kept transition."""
        steps = min(self.length, int(self.transitions[history]) - start)
        if start < 0 or steps < 1:
            raise IndexError(f"transition {start} of {self.transitions[history]} in history {history}")
        row = self._table[history]
        columns = {name: _values(row[name], self._features[name]) for name in ("observations", "actions", "rewards")}
        lengths = _with_unfinished(_values(row["episode_lengths"], None), len(columns["rewards"]))
        # Where each kept episode begins, in the history as recorded and in what is kept of it.
        recorded = (np.cumsum(lengths) - lengths)[self._kept]
        kept_ends = np.cumsum(lengths[self._kept])
        kept = kept_ends - lengths[self._kept]

        # One transition more than the window, in front, unless the history begins here.
        first = max(start - 1, 0)
        positions = np.arange(first, start + steps)
        episodes = np.searchsorted(kept_ends, positions, side="right")
        within = positions - kept[episodes]
        indices = recorded[episodes] + within
        lead = start - first
        read = {name: values[indices] for name, values in columns.items()}
        return {
            "observations": read["observations"][lead:],
            "actions": read["actions"][lead:],
            "rewards": read["rewards"][lead:],
            "episode_starts": within[lead:] == 0,
            "previous_action": read["actions"][0] if lead else np.zeros_like(read["actions"][0]),
            "previous_reward": read["rewards"][0] if lead else np.float32(0),
            "history_start": np.bool_(start == 0),
        }


def _with_unfinished(episode_lengths: np.ndarray, transitions: int) -> np.ndarray:
    unfinished = transitions - int(episode_lengths.sum())
    return np.append(episode_lengths, unfinished) if unfinished else episode_lengths


def _values(column: pa.ChunkedArray, feature: Any) -> np.ndarray:
    """The only list of a column of one row, as a view of the table's memory, `(steps,)` or `(steps, width)`."""
    array = column.chunk(0)
    if isinstance(feature, datasets.Array2D):
        # Each `flatten` strips one level of lists and respects the slice that the row is.
        return array.storage.flatten().flatten().to_numpy().reshape(-1, feature.shape[1])
    return array.flatten().to_numpy()


def check_environment(dataset: datasets.Dataset, environment: str) -> None:
    """Raise a `ValueError` if the dataset has histories of another environment."""
    others: Sequence[str] = sorted(set(dataset.unique("environment")) - {environment})
    if others:
        raise ValueError(f"The dataset has histories of {', '.join(others)}, expected only {environment}.")
