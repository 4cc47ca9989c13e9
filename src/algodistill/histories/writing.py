"""Writing learning histories to a folder that `datasets.load_dataset` reads, in shards that are whole or absent."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from ..environments import Task
from ..files import whole_file
from ..models.spaces_algodistill import describe_space
from .schema import ROW_GROUP_BYTES, SPLITS, config_name, history_features, history_table, step_columns, task_json
from .spaces import flat_columns


def shard_path(folder: Path, environment: str, split: str, index: int) -> Path:
    """Where shard `index` of a split of an environment's histories lies; `datasets` finds the split by the name."""
    return folder / config_name(environment) / f"{split}-{index:05d}.parquet"


def write_shard(path: Path, table: pa.Table) -> None:
    """Write a table of histories as one Parquet file, in row groups of at most 8 MB in memory."""
    rows = max(1, int(ROW_GROUP_BYTES * table.num_rows / max(table.nbytes, 1)))
    with whole_file(path) as partial:
        pa.parquet.write_table(table, partial, row_group_size=rows, compression="zstd", write_page_index=True)


class HistoryRecorder:
    """One learning history while it is being recorded; made by [`HistoryWriter.record`].

    Args:
        observation_space (`gymnasium.Space`): What the observations are elements of.
    """

    def __init__(self, observation_space: gymnasium.Space) -> None:
        self._observation_space = describe_space(observation_space)
        self._steps: dict[str, list[Any]] = {column: [] for column in step_columns(observation_space)}

    def __len__(self) -> int:
        return len(self._steps["rewards"])

    def append(self, observation: Any, action: Any, reward: float, terminated: bool, truncated: bool) -> None:
        """Add one transition: what the learner saw, did and got, and whether its episode ended there.

        Raises:
            ValueError: If the observation has other parts than its Dict or Tuple space.
        """
        step = {"observations": observation, "actions": action, "rewards": reward}
        step |= {"terminations": terminated, "truncations": truncated}
        for column, value in flat_columns(self._observation_space, step).items():
            # A copy: environments may reuse the array that they return.
            self._steps[column].append(np.array(value))

    def columns(self) -> dict[str, np.ndarray]:
        """The transitions so far, each column an array with them along its first axis.

        Raises:
            ValueError: If the shape of a column changes from step to step.
        """
        for column, values in self._steps.items():
            shapes = sorted({value.shape for value in values})
            if len(shapes) > 1:
                raise ValueError(f"{column} have different shapes from step to step: {shapes}.")
        return {column: np.stack(values) for column, values in self._steps.items()}


class HistoryWriter:
    """Writes the learning histories of any reinforcement-learning loop to a folder of Parquet shards.

    ```python
    spaces = env.observation_space, env.action_space
    with HistoryWriter("data/mine", *spaces, environment="Mine-v0", algorithm="ppo") as writer:
        for seed, task in enumerate(tasks):
            with writer.record(task=task, seed=seed) as history:
                ...
                history.append(observation, action, reward, terminated, truncated)
    histories = datasets.load_dataset("data/mine")
    ```

    Where a vector environment resets itself with an extra step after an episode's end (gymnasium's NEXT_STEP), leave
    that step out: nothing was done in it.

    Histories are written out as soon as `shard_megabytes` of them have come together, so memory stays flat; a shard
    appears under its name only when it is complete. Opening a folder again adds shards to those that are there.

    Args:
        folder (`str` or `Path`): Where to write.
        observation_space (`gymnasium.Space`): One environment's observations: Discrete, MultiDiscrete, MultiBinary,
            Box, or a Dict or Tuple of these.
        action_space (`gymnasium.Space`): One environment's actions: Discrete, MultiDiscrete, MultiBinary, or a Box
            with finite bounds.
        environment (`str`): The environment's id.
        algorithm (`str`): The source algorithm's name.
        shard_megabytes (`float`, *optional*, defaults to `64`): Size in memory at which a shard is written.
    """

    def __init__(
        self,
        folder: str | Path,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        environment: str,
        algorithm: str,
        shard_megabytes: float = 64,
    ):
        self.folder = Path(folder)
        self._environment, self._algorithm = environment, algorithm
        self._spaces = observation_space, action_space
        features = history_features(*self._spaces)
        for path in self._shards("*"):
            if pa.parquet.read_schema(path) != features.arrow_schema:
                raise ValueError(f"{path} holds histories of other spaces than {self._spaces}: choose another folder.")
            (other,) = set(pa.parquet.read_table(path, columns=["environment"])["environment"].to_pylist())
            if other != environment:
                raise ValueError(f"{path} holds histories of {other}, not of {environment}: choose another folder.")
        self._shard_bytes = shard_megabytes * 2**20
        self._pending: dict[str, list[pa.Table]] = {}
        self._next_id: dict[str, int] = {}

    def __enter__(self) -> "HistoryWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        # Also after an exception: the histories that are complete are worth keeping.
        self.close()

    @contextlib.contextmanager
    def record(self, *, task: Task, seed: int = 0, split: str = "train") -> Iterator[HistoryRecorder]:
        """Record one history, transition by transition. If the block raises, that history is dropped."""
        recorder = HistoryRecorder(self._spaces[0])
        yield recorder
        if len(recorder):
            self.write(tasks=[task], seeds=[seed], lengths=[len(recorder)], steps=recorder.columns(), split=split)

    def write(
        self,
        *,
        tasks: Sequence[Task],
        seeds: Sequence[int],
        lengths: Sequence[int] | np.ndarray,
        steps: Mapping[str, np.ndarray],
        split: str = "train",
    ) -> None:
        """Write whole histories at once.

        Args:
            tasks (`Sequence[dict]`): The task of each history.
            seeds (`Sequence[int]`): The seed of each learner.
            lengths (`Sequence[int]`): Transitions in each history.
            steps (`Mapping[str, np.ndarray]`): `observations`, `actions`, `rewards`, `terminations` and `truncations`,
                each with the transitions of all these histories end to end along the first axis. Observations of a
                Dict or Tuple space are a dict or tuple of such arrays.
            split (`str`, *optional*, defaults to `"train"`): `"train"`, `"validation"` or `"test"`: that of the tasks.

        Raises:
            ValueError: If a column is missing, or its shape or values do not fit the spaces.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is not known: choose one of {list(SPLITS)}.")
        if split not in self._next_id:
            self._next_id[split] = self._first_free_id(split)
        descriptions = [
            {
                "id": f"{split}-{self._next_id[split] + index:07d}",
                "task": task_json(task),
                "environment": self._environment,
                "algorithm": self._algorithm,
                "seed": seed,
            }
            for index, (task, seed) in enumerate(zip(tasks, seeds, strict=True))
        ]
        flat = {column: np.asarray(values) for column, values in flat_columns(self._spaces[0], steps).items()}
        table = history_table(*self._spaces, descriptions, np.asarray(lengths), flat)
        self._next_id[split] += len(descriptions)
        pending = self._pending.setdefault(split, [])
        pending.append(table)
        if sum(table.nbytes for table in pending) >= self._shard_bytes:
            self._flush(split)

    def _shards(self, split: str) -> list[Path]:
        return sorted(shard_path(self.folder, self._environment, split, 0).parent.glob(f"{split}-*.parquet"))

    def _first_free_id(self, split: str) -> int:
        numbers = [
            int(name.rpartition("-")[2])
            for path in self._shards(split)
            for name in pa.parquet.read_table(path, columns=["id"])["id"].to_pylist()
        ]
        return max(numbers, default=-1) + 1

    def _flush(self, split: str) -> None:
        shards = self._shards(split)
        index = int(shards[-1].stem.rpartition("-")[2]) + 1 if shards else 0
        write_shard(shard_path(self.folder, self._environment, split, index), pa.concat_tables(self._pending[split]))
        self._pending[split] = []

    def close(self) -> None:
        """Write out what is still in memory."""
        for split, pending in self._pending.items():
            if pending:
                self._flush(split)
