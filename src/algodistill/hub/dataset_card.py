"""The card of a dataset of learning histories, from its files alone, with the source algorithm's learning curve."""

import hashlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from huggingface_hub import DatasetCardData

from ..environments import known_distribution
from ..evaluation import CURVE_FILE, named_episodes, plot_source_curves, standard_error
from ..files import whole_file
from ..histories import config_name
from ..histories.schema import SPLITS
from ..sources import SOURCES
from .cards import CARD_FILE, merge_cards, read_json, render_card


COLLECTION_FILE = "collection.json"
_SHARD = re.compile(rf"(?P<split>{'|'.join(SPLITS)})-\d+\.parquet")
_SUMMARY_COLUMNS = ["task", "environment", "algorithm", "seed", "episode_returns", "episode_lengths"]
_SIZES = [(10**power, label) for power, label in ((3, "1K"), (4, "10K"), (5, "100K"), (6, "1M"), (7, "10M"))]
# Types, shapes and meaning of the columns that all histories have alike.
_MEANING = {
    "id": "name of the history",
    "task": "what the environment hides, as JSON",
    "environment": "gymnasium id",
    "algorithm": "source algorithm",
    "seed": "seed of the learner or of its collection",
    "observations": "what the learner saw before each step",
    "actions": "what it did",
    "rewards": "what it got for that, in the environment's unit",
    "terminations": "whether the episode ended there by its own rules",
    "truncations": "whether it was cut off there",
    "episode_returns": "undiscounted return of each complete episode",
    "episode_lengths": "steps in each complete episode",
}


@dataclass
class Split:
    """What a card says of one split of an environment's histories.

    Attributes:
        tasks (`int`): Tasks.
        histories (`int`): Histories.
        transitions (`int`): Transitions in complete episodes.
        mean (`np.ndarray`): Mean return per episode: over tasks, of each task's mean over its learners.
        error (`np.ndarray`): Its standard error over tasks.
    """

    tasks: int
    histories: int
    transitions: int
    mean: np.ndarray
    error: np.ndarray


@dataclass
class Part:
    """The histories of one environment: a configuration of the dataset, and a folder of it."""

    folder: Path
    path: str
    environment: str
    algorithms: list[str]
    splits: dict[str, Split]
    features: datasets.Features
    digest: str
    collection: dict[str, Any] | None

    @property
    def config(self) -> str:
        return config_name(self.environment)


def history_shards(folder: Path) -> dict[Path, list[Path]]:
    """The shards of learning histories in a folder, by the folder that they lie in."""
    shards: dict[Path, list[Path]] = {}
    for file in sorted(folder.glob("*/*.parquet")) + sorted(folder.glob("*.parquet")):
        if _SHARD.fullmatch(file.name):
            shards.setdefault(file.parent, []).append(file)
    return shards


def write_dataset_card(folder: Path) -> None:
    """Write a dataset's card, and a picture of its learning curve beside each environment's histories.

    What was written by hand into a card that is there already stays.
    """
    path = folder / CARD_FILE
    parts = read_parts(folder)
    for part in parts:
        with whole_file(part.folder / CURVE_FILE) as partial:
            plot_part(part, partial)
    existing = path.read_text() if path.exists() else ""
    with whole_file(path) as partial:
        partial.write_text(merge_cards(existing, dataset_card(parts, str(folder))))


def dataset_card(parts: Sequence[Part], name: str) -> str:
    """The card of a dataset.

    Args:
        parts (`Sequence[Part]`): Its parts, from [`read_parts`].
        name (`str`): What `datasets.load_dataset` finds it by: a Hub id, or a folder.
    """
    histories = sum(split.histories for part in parts for split in part.splits.values())
    algorithms = sorted({algorithm for part in parts for algorithm in part.algorithms})
    environments = [part.environment for part in parts]
    metadata = DatasetCardData(
        license="apache-2.0",
        pretty_name=f"Learning histories of {', '.join(algorithms)} on {', '.join(environments)}",
        task_categories=["reinforcement-learning"],
        tags=[
            "algodistill",
            "learning-histories",
            "algorithm-distillation",
            "in-context-reinforcement-learning",
            "gymnasium",
            *environments,
        ],
        size_categories=[_size_category(histories)],
        configs=[
            {
                "config_name": part.config,
                # `datasets` keeps what it has read of a local folder by this text: with the content's hash in it,
                # histories that are collected anew are never taken for those that it knows.
                "description": f"{part.environment}, {part.digest}",
                "data_files": [{"split": split, "path": f"{part.path}{split}-*.parquet"} for split in part.splits],
            }
            for part in parts
        ],
    )
    values = {
        "parts": parts,
        "name": name,
        "algorithms": algorithms,
        "environments": environments,
        "about_environment": _about_environment,
        "about_source": lambda algorithm: _about(SOURCES[algorithm]) if algorithm in SOURCES else "",
        "columns": _columns,
        "episodes": _shown_episodes,
        "curve_file": CURVE_FILE,
    }
    return render_card("dataset_card.md", metadata, values)


def _shown_episodes(part: Part) -> list[int]:
    """Episodes (0-based) that all histories have, to show the learning curve by."""
    episodes = min(len(split.mean) for split in part.splits.values())
    return named_episodes(episodes) if episodes else []


def _about_environment(environment: str) -> str:
    """What one of our environments is, in its own words."""
    spec = gymnasium.registry.get(environment)
    if spec is None or not environment.startswith("algodistill/"):
        return ""
    return _about(gymnasium.envs.registration.load_env_creator(str(spec.vector_entry_point or spec.entry_point)))


def _about(documented: Any) -> str:
    """What a docstring says before it comes to arguments."""
    return (inspect.getdoc(documented) or "").split("\nArgs:")[0].strip()


def read_parts(folder: Path) -> list[Part]:
    """What the histories in a folder are, from their files.

    Raises:
        ValueError: If there are none, a file is not whole, or an environment's folder holds another's too.
    """
    parts = [_read_part(folder, place, shards) for place, shards in history_shards(folder).items()]
    if not parts:
        raise ValueError(f"{folder} holds no learning histories: expected files like DarkRoom-v0/train-00000.parquet.")
    return parts


def _read_part(folder: Path, place: Path, shards: Sequence[Path]) -> Part:
    digest = hashlib.sha256()
    tables: dict[str, list[pa.Table]] = {}
    for shard in shards:
        match = _SHARD.fullmatch(shard.name)
        assert match is not None, "that is how shards are found"
        try:
            tables.setdefault(match["split"], []).append(pa.parquet.read_table(shard, columns=_SUMMARY_COLUMNS))
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise ValueError(f"{shard} is no whole file of learning histories ({error}).") from error
        with shard.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    by_split = {split: pa.concat_tables(tables[split]) for split in SPLITS if split in tables}
    everything = pa.concat_tables(by_split.values())
    environments = everything["environment"].unique().to_pylist()
    if len(environments) > 1:
        raise ValueError(
            f"{place} holds histories of {', '.join(environments)}: give each environment its own folder."
        )
    collection = place / COLLECTION_FILE
    return Part(
        folder=place,
        path="" if place == folder else f"{place.name}/",
        environment=environments[0],
        algorithms=sorted(everything["algorithm"].unique().to_pylist()),
        splits={split: _summarise(table) for split, table in by_split.items()},
        features=datasets.Features.from_arrow_schema(pa.parquet.read_schema(shards[0])),
        digest=f"sha256 {digest.hexdigest()[:16]}",
        collection=read_json(collection) or None,
    )


def _summarise(table: pa.Table) -> Split:
    table = table.combine_chunks()
    returns = table["episode_returns"].combine_chunks()
    episodes = int(pa.compute.min(pa.compute.list_value_length(returns)).as_py() or 0)
    curves = np.stack([np.asarray(row.values)[:episodes] for row in returns]).astype(np.float64)
    task_of_row = np.unique(table["task"].to_pylist(), return_inverse=True)[1]
    tasks = int(task_of_row.max()) + 1
    per_task = np.zeros((tasks, episodes))
    np.add.at(per_task, task_of_row, curves)
    per_task /= np.bincount(task_of_row)[:, None]
    return Split(
        tasks=tasks,
        histories=len(table),
        transitions=int(pa.compute.sum(table["episode_lengths"].combine_chunks().flatten()).as_py() or 0),
        mean=per_task.mean(axis=0),
        error=np.array(standard_error(per_task), dtype=float),
    )


def plot_part(part: Part, path: Path) -> None:
    """Draw the source algorithm's learning curve on each split's tasks, beside random and optimal behaviour."""
    references = {}
    if part.collection is not None:
        collected = part.collection["collection"]
        tasks = [task for tasks in collected["tasks"].values() for task in tasks]
        distribution = known_distribution(part.environment, collected["environment_kwargs"], tasks)
        if distribution is not None:
            references = {
                "random": float(np.mean([distribution.random_return(task) for task in tasks])),
                "optimal": float(np.mean([distribution.optimal_return(task) for task in tasks])),
            }
    curves = {
        f"{name}: {split.tasks} tasks, {split.histories} learners": (split.mean, split.error)
        for name, split in part.splits.items()
    }
    plot_source_curves(curves, references, f"{', '.join(part.algorithms)} on {part.environment}", path)


def _columns(features: datasets.Features) -> list[tuple[str, str, str, str]]:
    """Name, type, shape and meaning of each column."""
    rows = []
    for name, feature in features.items():
        if isinstance(feature, datasets.Array2D):
            dtype, shape = feature.dtype, f"(steps, {feature.shape[1]})"
        elif isinstance(feature, datasets.List):
            dtype, shape = feature.feature.dtype, "(episodes)" if name.startswith("episode_") else "(steps)"
        else:
            dtype, shape = feature.dtype, ""
        # Nested observations have a column for each leaf, such as `observations.position`.
        rows.append((name, dtype, shape, _MEANING.get(name.partition(".")[0], "")))
    return rows


def _size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    lower = "n"
    for bound, label in _SIZES:
        if rows < bound:
            return f"n<{label}" if lower == "n" else f"{lower}<n<{label}"
        lower = label
    return f"n>{lower}"
