"""Collecting the histories of a preset into the folder that keeps them."""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock

from ..environments import TASK_DISTRIBUTIONS, TaskSplit, split_tasks
from ..evaluation import named_episodes
from ..histories import Collection, collect_histories
from ..histories.collecting import SHARD_TRANSITIONS, batches
from ..histories.writing import shard_path, whole_file
from ..hub import write_card
from .arguments import (
    AlgorithmDistillationTrainingArguments,
    EvaluationArguments,
    HistoryArguments,
    ModelArguments,
    WindowArguments,
)
from .preset import find_preset, parse_settings


COLLECTION_FILE = "collection.json"


def collect(
    preset: str | Path, output_dir: str | Path | None = None, *, options: Sequence[str] = (), progress: bool = True
) -> Path:
    """Collect the learning histories that a preset asks for, with a dataset card.

    What is there already is kept: an interrupted collection continues, a finished one is only checked.

    Args:
        preset (`str` or `Path`): A preset's name or file.
        output_dir (`str` or `Path`, *optional*): Where the histories go; by default `data/<preset>`.
        options (`Sequence[str]`, *optional*): What overrules the preset, as on the command line, such as
            `["--episodes", "50"]`.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on a terminal.

    Returns:
        `Path`: The folder, which `datasets.load_dataset` reads.

    Raises:
        ValueError: If the preset or an option is wrong, or the folder holds something else.
        OSError: If the histories cannot be written; those that are there stay.
    """
    others = (WindowArguments, ModelArguments, EvaluationArguments, AlgorithmDistillationTrainingArguments)
    other_keys = [field.name for other in others for field in dataclasses.fields(other)]
    (arguments,) = parse_settings([HistoryArguments], preset, options, other_keys=other_keys)
    folder = Path(output_dir) if output_dir is not None else default_folder(preset)
    collect_into(folder, make_collection(arguments), find_preset(str(preset)).stem, progress=progress)
    return folder


def default_folder(preset: str | Path) -> Path:
    """Where the histories of a preset are kept."""
    return Path("data") / find_preset(str(preset)).stem


def task_split(arguments: HistoryArguments) -> TaskSplit:
    """The train, validation and test tasks of an experiment.

    Raises:
        ValueError: If the environment's tasks are not known or too few.
    """
    if arguments.environment not in TASK_DISTRIBUTIONS:
        known = ", ".join(sorted(TASK_DISTRIBUTIONS))
        raise ValueError(f"The tasks of environment {arguments.environment!r} are not known: choose one of {known}.")
    try:
        distribution = TASK_DISTRIBUTIONS[arguments.environment](**arguments.environment_kwargs)
    except TypeError as error:
        raise ValueError(f"environment_kwargs do not fit {arguments.environment}: {error}.") from error
    return split_tasks(
        distribution.tasks(),
        split_seed=arguments.split_seed,
        train_tasks=arguments.train_tasks,
        validation_tasks=arguments.validation_tasks,
    )


def make_collection(arguments: HistoryArguments) -> Collection:
    """What an experiment's histories depend on."""
    split = task_split(arguments)
    return Collection(
        environment=arguments.environment,
        environment_kwargs=arguments.environment_kwargs,
        source=arguments.source,
        source_kwargs=arguments.source_kwargs,
        tasks={name: tasks for name, tasks in split._asdict().items() if tasks},
        learners_per_task=arguments.learners_per_task,
        episodes=arguments.episodes,
        seed=arguments.collect_seed,
    )


def collect_into(folder: Path, collection: Collection, preset: str, *, progress: bool = True) -> None:
    """Collect into a folder, or continue, or find everything there. Another process that does the same waits.

    Raises:
        ValueError: If the folder holds other histories, or something else.
    """
    # Not in the folder, which is what is published.
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"algodistill-{place}.lock"):
        _collect_into(folder, collection, preset, progress=progress)


def _collect_into(folder: Path, collection: Collection, preset: str, *, progress: bool) -> None:
    todo = batches(collection)
    # Through JSON, so that what is compared is what can be read back.
    wanted = json.loads(json.dumps({**dataclasses.asdict(collection), "shard_transitions": SHARD_TRANSITIONS}))
    path = folder / COLLECTION_FILE
    if path.exists():
        try:
            found = json.loads(path.read_text())["collection"]
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{path} is damaged: delete {folder} to collect anew.") from error
        changed = [key for key in wanted if found.get(key) != wanted[key]]
        if changed:
            raise ValueError(
                f"{folder} holds histories that were collected with other settings ({', '.join(changed)}). To collect "
                "anew, delete that folder or choose another."
            )
    elif folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise ValueError(f"{folder} holds something that is not a collection of histories: choose another folder.")
    else:
        fingerprint = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        with whole_file(path) as partial:
            partial.write_text(json.dumps({"fingerprint": fingerprint, "collection": wanted}, indent=1) + "\n")
    complete = (folder / "README.md").exists() and all(
        shard_path(folder, batch.split, batch.index).exists() for batch in todo
    )
    if not complete:
        collect_histories(collection, folder, progress=progress)
        _write_dataset_card(folder, collection, preset)


def _write_dataset_card(folder: Path, collection: Collection, preset: str) -> None:
    splits = {}
    for split, tasks in collection.tasks.items():
        learners = len(tasks) * collection.learners_per_task
        files = sorted((folder / "data").glob(f"{split}-*.parquet"))
        lengths = [pa.parquet.read_table(file, columns=["episode_lengths", "episode_returns"]) for file in files]
        table = pa.concat_tables(lengths)
        returns = table["episode_returns"].combine_chunks().flatten().to_numpy().reshape(learners, -1)
        splits[split] = {
            "tasks": len(tasks),
            "histories": learners,
            "transitions": int(pa.compute.sum(table["episode_lengths"].combine_chunks().flatten()).as_py()),
            "returns": {
                episode + 1: float(returns[:, episode].mean()) for episode in named_episodes(collection.episodes)
            },
        }
    schema = pa.parquet.read_schema(files[0])
    features = datasets.Features.from_arrow_schema(schema)
    with whole_file(folder / "README.md") as partial:
        write_card(
            "dataset_card.md",
            partial,
            {
                "preset": preset,
                "folder": folder.name,
                "collection": collection,
                "splits": splits,
                "total": sum(split["transitions"] for split in splits.values()),
                "episodes": named_episodes(collection.episodes),
                "features": features,
                "source_settings": json.dumps(dict(collection.source_kwargs)),
            },
        )


def load_histories(name_or_path: str | Path, split: str) -> datasets.Dataset | None:
    """Open a split of a dataset of learning histories; `None` if it has no such split.

    Args:
        name_or_path (`str` or `Path`): A folder or a Hub id.
        split (`str`): `"train"`, `"validation"` or `"test"`.

    Raises:
        ValueError: If there is no such dataset, or one of its files is not whole.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        for file in sorted(folder.rglob("*.parquet")):
            try:
                pa.parquet.read_metadata(file)
            except pa.ArrowInvalid as error:
                raise ValueError(
                    f"{file} is not a whole Parquet file ({error}). Delete it and collect again: only it is missing."
                ) from error
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(str(name_or_path))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{name_or_path} is no dataset: it is neither a folder of histories nor to be had from the Hub ({error})."
        ) from error
    return splits.get(split)
