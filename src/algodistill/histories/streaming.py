"""Reading windows out of learning histories that stay where they are, such as on the Hub, and arrive as a stream."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset, get_worker_info

from ..environments import Task
from .windows import Window, WindowCutter, check_histories, list_values


# Windows that are mixed with each other: enough for batches of many histories, some MB of memory.
SHUFFLED_WINDOWS = 2048
# A pass may leave a process nothing where there are hardly more histories than processes; so many in a row mean more.
MOST_EMPTY_PASSES = 10


class StreamedHistoryWindows(IterableDataset):
    """Windows of a stream of learning histories, without end, as [`HistoryWindows`] cuts them.

    The histories are read over and over; each pass takes the parts of the dataset (row groups of its Parquet files) in
    another order, and gives every history as many windows as it takes to cover its transitions about once. Windows
    that are read close to each other are shuffled. Several processes read different parts.

    Iterating anew begins anew: the same seed gives the same windows in the same order.

    ```python
    histories = datasets.load_dataset("USER/histories", split="train", streaming=True)
    windows = StreamedHistoryWindows(histories, length=500, episode_stride=8)
    ```

    Args:
        dataset (`datasets.IterableDataset`): Learning histories, one a row.
        length (`int`): Transitions in a window.
        episode_stride (`int`, *optional*, defaults to `1`): Keep every k-th episode.
        first_episode (`int`, *optional*, defaults to `0`): First episode to keep.
        last_episode (`int`, *optional*): Last episode to keep (inclusive); by default the history's last.
        expert_share (`float`, *optional*): Keep only this share of these episodes, rounded up: the last ones.
        expert_quantile (`float`, *optional*): Keep only those of these episodes that returned at least this quantile
            of their returns.
        start_share (`float`, *optional*, defaults to `0.0`): Probability that a window starts at its history's
            beginning.
        returns_to_go (`bool`, *optional*, defaults to `False`): Whether windows have `returns_to_go`.
        seed (`int`, *optional*, defaults to `0`): Seed of order and choice of windows.
        rank (`int`, *optional*, defaults to `0`): This process, of those that read together.
        world_size (`int`, *optional*, defaults to `1`): How many processes read together, each another part.
        environment (`str`, *optional*): The environment that all histories must be of.
        held_out_tasks (`Sequence[dict]`, *optional*): Tasks that no history may be of.

    Raises:
        ValueError: If the dataset lacks a column, or an argument is out of its range; while iterating, if there is no
            transition to read.
        WrongHistories: While iterating, if a history is of another environment or of a held-out task.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        length: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        environment: str | None = None,
        held_out_tasks: Sequence[Task] = (),
        **selection: Any,
    ):
        self.cutter = WindowCutter(dataset, length, **selection)
        if not isinstance(dataset, datasets.IterableDataset):
            raise ValueError("That is no stream: read its windows with HistoryWindows.")
        if seed < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"seed={seed}, rank={rank}, world_size={world_size}: expected 0 or more, and a rank below the size."
            )
        self.length, self._seed, self._rank, self._world_size = length, seed, rank, world_size
        self._environment, self._held_out_tasks = environment, list(held_out_tasks)
        parts = dataset.select_columns(["environment", "task", *self.cutter.columns]).with_format("arrow").reshard()
        # Each part is read by one process. With fewer parts than processes, all read everything and take turns.
        strategy = "shards" if parts.num_shards >= world_size else "examples"
        self._stream = split_dataset_by_node(parts, rank=rank, world_size=world_size, strategy=strategy)

    def first(self) -> Window:
        """A window, before any others are read."""
        for window in self._one_pass(copy.deepcopy(self._stream), np.random.default_rng(self._seed)):
            return window
        raise self._nothing_left()

    def _nothing_left(self) -> ValueError:
        return ValueError(
            f"No transition is left to read of the stream for process {self._rank} of {self._world_size}: there are "
            f"fewer histories than processes, or none has the episodes that are kept ({self.cutter.kept_episodes})."
        )

    def __iter__(self) -> Iterator[Window]:
        worker = get_worker_info()
        rng = np.random.default_rng([self._seed, self._rank, worker.id if worker else 0])
        # A copy: what `datasets` remembers of a pass is shared by all workers of a DataLoader, each in another pass.
        stream = copy.deepcopy(self._stream)
        epoch, empty_passes = 0, 0
        while True:
            # The number of an epoch is what `datasets` draws the order of the parts from, in all processes alike. (Its
            # `shuffle` would read ten parts at a time, and wait for five seconds at the end of each pass.)
            stream.set_epoch(int(np.random.default_rng([self._seed, epoch]).integers(1, 2**31)))
            empty_passes += 1
            for window in _shuffled(self._one_pass(stream, rng), rng):
                empty_passes = 0
                yield window
            if empty_passes == MOST_EMPTY_PASSES:
                if worker:
                    return  # More workers than parts: this one has nothing to do.
                raise self._nothing_left()
            epoch += 1

    def _one_pass(self, stream: datasets.IterableDataset, rng: np.random.Generator) -> Iterator[Window]:
        """The windows of all histories, one history after the other."""
        checked: set[tuple[str, str]] = set()
        for row in stream:
            environment, task = row["environment"][0].as_py(), row["task"][0].as_py()
            if (environment, task) not in checked:
                check_histories([environment], [task], self._environment, self._held_out_tasks)
                checked.add((environment, task))
            recorded = int(pa.compute.list_value_length(row["rewards"])[0].as_py())
            of_episodes = (list_values(row[name]) for name in self.cutter.episode_columns)
            transitions = self.cutter.transitions(recorded, *of_episodes)
            for _ in range(self.cutter.windows(transitions)):
                start, seed = self.cutter.draw_start(rng, transitions)
                yield {**self.cutter.cut(row, start), "seed": seed}


def _shuffled(windows: Iterator[Window], rng: np.random.Generator) -> Iterator[Window]:
    """The same windows, each drawn from the `SHUFFLED_WINDOWS` that are held at a time."""
    held: list[Window] = []
    for window in windows:
        if len(held) < SHUFFLED_WINDOWS:
            held.append(window)
        else:
            chosen = int(rng.integers(len(held)))
            held[chosen], window = window, held[chosen]
            yield window
    yield from (held[index] for index in rng.permutation(len(held)))
