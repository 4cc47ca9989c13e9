"""Reading windows of transitions out of learning histories, without copying a history into memory."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from ..environments import Task
from ..models.spaces_algodistill import SEPARATOR
from .schema import COLUMNS, observation_columns, task_json


# Arrays, but for the `observations` of a Dict or Tuple space: a dict from the paths of the leaves to their arrays.
Window = dict[str, Any]


class WindowCutter:
    """Cuts windows out of one history at a time, given as a row of an Arrow table.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): Where the histories come from.
        length (`int`): Transitions in a window.
        episode_stride (`int`): Keep every k-th episode.
        first_episode (`int`): First episode to keep.
        last_episode (`int`, *optional*): Last episode to keep (inclusive); by default the history's last.
        expert_share (`float`, *optional*): Keep only this share of a history's episodes, its last ones.
        expert_quantile (`float`, *optional*): Keep only episodes that returned at least this quantile of their
            history's returns.
        start_share (`float`): Probability that a window starts at its history's beginning.
        returns_to_go (`bool`): Whether a window says what is still to come of each episode's return; an episode that a
            history breaks off is then left out.

    Raises:
        ValueError: If the dataset lacks a column, or an argument is out of its range.
    """

    def __init__(
        self,
        dataset: datasets.Dataset | datasets.IterableDataset,
        length: int,
        *,
        episode_stride: int = 1,
        first_episode: int = 0,
        last_episode: int | None = None,
        expert_share: float | None = None,
        expert_quantile: float | None = None,
        start_share: float = 0.0,
        returns_to_go: bool = False,
    ):
        if isinstance(dataset, dict):
            raise ValueError(
                f"That is a dataset with the splits {list(dataset)}: choose one, such as dataset['train']."
            )
        observations = observation_columns(dataset.features or {})
        missing = [
            column
            for column in COLUMNS
            if column not in (dataset.features or {}) and not (column == "observations" and observations)
        ]
        if missing:
            raise ValueError(
                f"The dataset lacks the columns {missing}: learning histories have {list(COLUMNS)}, one history a row."
            )
        for name, value, low in (
            ("length", length, 1),
            ("episode_stride", episode_stride, 1),
            ("first_episode", first_episode, 0),
        ):
            if value < low:
                raise ValueError(f"{name}={value} is out of range: expected at least {low}.")
        if last_episode is not None and last_episode < first_episode:
            raise ValueError(f"last_episode={last_episode} comes before first_episode={first_episode}.")
        for name, share in (
            ("start_share", start_share),
            ("expert_share", expert_share),
            ("expert_quantile", expert_quantile),
        ):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share} is out of range: expected a number from 0 to 1.")
        self.length, self.start_share, self.features = length, start_share, dataset.features
        self._observations, self._returns_to_go = observations, returns_to_go
        # What a window is cut from, and what says which episodes are kept.
        self._steps = [*observations, "actions", "rewards"]
        self.episode_columns = ["episode_lengths", *(["episode_returns"] if expert_quantile is not None else [])]
        self.columns = [*self._steps, *self.episode_columns]
        self.kept_episodes = f"{first_episode} to {'the last' if last_episode is None else last_episode}"
        for name, share in (("expert_share", expert_share), ("expert_quantile", expert_quantile)):
            self.kept_episodes += "" if share is None else f" ({name}={share})"
        self._range = slice(first_episode, None if last_episode is None else last_episode + 1)
        self._stride, self._expert_share, self._expert_quantile = episode_stride, expert_share, expert_quantile

    def transitions(self, recorded: int, episode_lengths: np.ndarray, episode_returns: Any = None) -> int:
        """Transitions that are kept of a history of `recorded` transitions, whose `episode_columns` are given."""
        lengths = _with_unfinished(episode_lengths, recorded)
        return int(lengths[self._kept(len(lengths), len(episode_lengths), episode_returns)].sum())

    def _kept(self, episodes: int, finished: int, episode_returns: np.ndarray | None) -> np.ndarray:
        """Numbers of the episodes that are kept of a history, in order; the first `finished` of them have ended."""
        kept = np.arange(episodes)[self._range]
        if self._expert_share is not None:
            kept = kept[len(kept) - share_of(len(kept), self._expert_share) :]
        if self._returns_to_go or self._expert_quantile is not None:
            # What an unfinished episode returns is not known.
            kept = kept[kept < finished]
        if self._expert_quantile is not None and episode_returns is not None:
            returns = episode_returns[kept]
            kept = kept[returns >= np.quantile(returns, self._expert_quantile)] if len(kept) else kept
        return kept[:: self._stride]

    def windows(self, transitions: int | np.ndarray) -> Any:
        """Windows of an epoch that come from histories with so many transitions kept."""
        return -(-transitions // self.length)

    def draw_start(self, rng: np.random.Generator, transitions: int) -> tuple[int, np.ndarray]:
        """Where a window starts in a history with so many transitions kept, and the window's own seed."""
        starts_with_history, seed = rng.random() < self.start_share, rng.integers(2**63)
        last_start = max(transitions - self.length, 0)
        return 0 if starts_with_history else int(rng.integers(last_start + 1)), np.asarray(seed)

    def cut(self, row: pa.Table, start: int) -> Window:
        """The window that starts with the `start`-th kept transition of a history.

        Args:
            row (`pa.Table`): The history's `columns`.
            start (`int`): A kept transition, counted from 0.
        """
        columns = {name: list_values(row[name], self.features[name]) for name in self._steps}
        finished, *returns = (list_values(row[name]) for name in self.episode_columns)
        lengths = _with_unfinished(finished, len(columns["rewards"]))
        chosen = self._kept(len(lengths), len(finished), returns[0] if returns else None)
        # Where each kept episode begins, in the history as recorded and in what is kept of it.
        recorded = (np.cumsum(lengths) - lengths)[chosen]
        kept_ends = np.cumsum(lengths[chosen])
        kept = kept_ends - lengths[chosen]
        transitions = int(kept_ends[-1]) if len(kept_ends) else 0
        if not 0 <= start < transitions:
            raise IndexError(f"transition {start} of {transitions} in a history")

        # One transition more than the window, in front, unless the history begins here.
        first = max(start - 1, 0)
        positions = np.arange(first, min(start + self.length, transitions))
        episodes = np.searchsorted(kept_ends, positions, side="right")
        within = positions - kept[episodes]
        indices = recorded[episodes] + within
        lead = start - first
        read = {name: values[indices] for name, values in columns.items()}
        conditions = {}
        if self._returns_to_go:
            ends = recorded[episodes] + lengths[chosen[episodes]]
            conditions["returns_to_go"] = _returns_to_go(columns["rewards"], indices[lead:], ends[lead:])
        return {
            "observations": self._nested({name: read[name][lead:] for name in self._observations}),
            "actions": read["actions"][lead:],
            "rewards": read["rewards"][lead:],
            "episode_starts": within[lead:] == 0,
            "previous_action": read["actions"][0] if lead else np.zeros_like(read["actions"][0]),
            "previous_reward": read["rewards"][0] if lead else np.float32(0),
            "history_start": np.bool_(start == 0),
            **conditions,
        }

    def _nested(self, observations: dict[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
        """Observations by column as windows have them: an array, or those of the leaves by their paths."""
        if "observations" in observations:
            return observations["observations"]
        return {name.partition(SEPARATOR)[2]: values for name, values in observations.items()}


class HistoryWindows(Dataset):
    """Windows of `length` consecutive transitions of learning histories, as a map-style dataset.

    An epoch has as many windows as it takes to cover every transition about once: a history of T transitions gives
    ceil(T / length) windows, each of which starts at the history's beginning with probability `start_share` and
    elsewhere uniformly. Window `index` of an epoch depends on `seed`, the epoch and `index` alone. A window never
    crosses into another history; one that is shorter than `length` holds a whole history.

    With an `episode_stride` k, the histories are those that would have been recorded had only every k-th episode
    happened: kept episodes follow each other directly, and the first transition of one is preceded by the last
    of the episode kept before it.

    Each window is a dict of arrays. Where the observation space is a Dict or Tuple, `observations` is a dict of arrays
    too, by the paths of the leaves (`"position"`, `"arm.position"`, `"0"`).

    | key | shape | |
    |---|---|---|
    | `observations` | `(steps, ...)` | what the learner saw |
    | `actions` | `(steps, ...)` | what it did |
    | `rewards` | `(steps,)` | what it got for that |
    | `episode_starts` | `(steps,)` | whether an episode starts with this step |
    | `previous_action` | `(...)` | the action before the window; zeros at a history's beginning |
    | `previous_reward` | `()` | the reward before the window; 0 at a history's beginning |
    | `history_start` | `()` | whether the window starts at the history's beginning |
    | `returns_to_go` | `(steps,)` | if asked for: sum of the rewards from this step to the end of its episode |
    | `seed` | `()` | a number of this window's own, for whoever draws something for it |

    Args:
        dataset (`datasets.Dataset`): Learning histories, one a row, as [`HistoryWriter`] writes them.
        length (`int`): Transitions in a window.
        episode_stride (`int`, *optional*, defaults to `1`): Keep every k-th episode.
        first_episode (`int`, *optional*, defaults to `0`): First episode to keep.
        last_episode (`int`, *optional*): Last episode to keep (inclusive); by default the history's last.
        expert_share (`float`, *optional*): Keep only this share of these episodes, rounded up: the last ones.
        expert_quantile (`float`, *optional*): Keep only those of these episodes that returned at least this quantile
            of their returns.
        start_share (`float`, *optional*, defaults to `0.0`): Probability that a window starts at its history's
            beginning.
        returns_to_go (`bool`, *optional*, defaults to `False`): Whether windows have `returns_to_go`. Episodes that
            histories break off, whose returns are not known, are then left out.
        seed (`int`, *optional*, defaults to `0`): Seed of the choice of windows.

    Raises:
        ValueError: If the dataset lacks a column or holds no transition, or an argument is out of its range.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        length: int,
        *,
        seed: int = 0,
        **selection: Any,
    ):
        self.cutter = WindowCutter(dataset, length, **selection)
        if seed < 0:
            raise ValueError(f"seed={seed} is out of range: expected at least 0.")
        if isinstance(dataset, datasets.IterableDataset):
            raise ValueError("That is a stream: read its windows with StreamedHistoryWindows.")
        self.length, self.seed, self.epoch = length, seed, 0
        self._table = dataset.select_columns(self.cutter.columns).with_format("arrow")

        self.transitions = np.fromiter(self._count_transitions(), np.int64, len(dataset))
        self._window_ends = np.cumsum(self.cutter.windows(self.transitions))
        if len(self.transitions) == 0 or self._window_ends[-1] == 0:
            raise ValueError(
                f"No transition is left to read: {len(dataset)} histories, of which episodes "
                f"{self.cutter.kept_episodes} are kept."
            )

    def _count_transitions(self) -> Iterator[int]:
        """The transitions that are kept of every history."""
        columns = self._table.select_columns(["rewards", *self.cutter.episode_columns])
        for table in columns.iter(batch_size=1000):
            steps = pa.compute.list_value_length(table["rewards"]).to_numpy()
            of_episodes = (table[name].combine_chunks() for name in self.cutter.episode_columns)
            for total, *values in zip(steps, *of_episodes, strict=True):
                yield self.cutter.transitions(total, *(value.values.to_numpy() for value in values))

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
        start, seed = self.cutter.draw_start(rng, int(self.transitions[history]))
        return {**self.read(history, start), "seed": seed}

    def read(self, history: int, start: int) -> Window:
        """The window of the `history`-th row that starts with its `start`-th kept transition."""
        return self.cutter.cut(self._table[history], start)


def share_of(episodes: int, share: float) -> int:
    """How many of so many episodes are a share of them, rounded up."""
    # In floating point, 0.07 * 100 is a little more than 7.
    return math.ceil(round(share * episodes, 9))


def _with_unfinished(episode_lengths: np.ndarray, transitions: int) -> np.ndarray:
    unfinished = transitions - int(episode_lengths.sum())
    return np.append(episode_lengths, unfinished) if unfinished else episode_lengths


def _returns_to_go(rewards: np.ndarray, indices: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of the rewards from transition `indices[i]` up to, but not including, `ends[i]`, shape `(len(indices),)`.

    The indices ascend, and of the rewards no more is read than these episodes.
    """
    # A window's episodes lie far apart where a stride leaves others out: each is summed up by itself.
    sums = np.zeros(len(indices))
    for end in np.unique(ends):
        own = ends == end
        first = indices[own][0]
        to_come = np.cumsum(rewards[first:end][::-1], dtype=np.float64)[::-1]
        sums[own] = to_come[indices[own] - first]
    return sums.astype(np.float32)


def list_values(column: pa.ChunkedArray, feature: Any = None) -> np.ndarray:
    """The only list of a column of one row, as a view of the table's memory, `(steps,)` or `(steps, width)`."""
    array = column.chunk(0)
    if isinstance(feature, datasets.Array2D):
        # Each `flatten` strips one level of lists and respects the slice that the row is.
        return array.storage.flatten().flatten().to_numpy().reshape(-1, feature.shape[1])
    return array.flatten().to_numpy()


class WrongHistories(ValueError):
    """Histories that must not be trained on: of another environment, or of tasks to evaluate on."""


def check_histories(
    environments: Iterable[str],
    tasks: Iterable[str],
    environment: str | None,
    held_out_tasks: Iterable[Task] = (),
) -> None:
    """Raise [`WrongHistories`] if some histories are of another environment, or of tasks held out from training.

    Args:
        environments (`Iterable[str]`): What the histories' column `environment` holds.
        tasks (`Iterable[str]`): What their column `task` holds.
        environment (`str`, *optional*): The environment that is expected; any if there is none.
        held_out_tasks (`Iterable[dict]`, *optional*): The tasks that must not occur.
    """
    if environment is not None and (others := sorted(set(environments) - {environment})):
        raise WrongHistories(f"The dataset has histories of {', '.join(others)}, expected only {environment}.")
    if leaked := sorted(set(tasks) & {task_json(task) for task in held_out_tasks}):
        raise WrongHistories(
            f"The dataset has histories of {len(leaked)} of the tasks to evaluate on, such as {leaked[0]}: results "
            "would not be of held-out tasks. Choose the split_seed and train_tasks that it was collected with."
        )
