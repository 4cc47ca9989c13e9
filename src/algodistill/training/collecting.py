"""Collecting the histories of a preset into the folder that keeps them."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import httpx2
import pyarrow as pa
import pyarrow.parquet
import yaml
from datasets.packaged_modules.cache.cache import Cache
from datasets.packaged_modules.parquet.parquet import Parquet

from ..environments import TASK_DISTRIBUTIONS, TaskSplit, split_described_tasks
from ..files import alone, whole_file
from ..histories import Collection, collect_histories, config_name
from ..histories.collecting import check_collection, check_tasks
from ..histories.collection import batches, shard_transitions
from ..histories.schema import SPLITS
from ..histories.writing import shard_path
from ..hub import CARD_FILE, COLLECTION_FILE, history_shards, write_dataset_card
from ..outcomes import raise_if_unavailable
from .arguments import (
    AlgorithmDistillationTrainingArguments,
    EvaluationArguments,
    HistoryArguments,
    ModelArguments,
    WindowArguments,
)
from .preset import find_preset, is_shipped, parse_settings


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
    arguments = history_arguments(preset, options)
    folder = Path(output_dir) if output_dir is not None else default_folder(preset)
    collect_into(folder, make_collection(arguments), *collect_command(preset, arguments), progress=progress)
    return folder


def history_arguments(preset: str | Path, options: Sequence[str] = ()) -> HistoryArguments:
    """What a preset, and options that overrule it, say of histories."""
    others = (WindowArguments, ModelArguments, EvaluationArguments, AlgorithmDistillationTrainingArguments)
    other_keys = [field.name for other in others for field in dataclasses.fields(other)]
    (arguments,) = parse_settings([HistoryArguments], preset, options, other_keys=other_keys)
    return arguments


def collect_command(preset: str | Path, arguments: HistoryArguments) -> tuple[str, str | None]:
    """How to collect the histories that these arguments ask for, wherever the package is installed.

    Returns:
        `tuple[str, str | None]`: The command; and what the preset holds that it names, unless that comes with the
        package.
    """
    asked = {key: value for key, value in dataclasses.asdict(arguments).items() if key not in ("dataset", "streaming")}
    path = find_preset(str(preset))
    if not is_shipped(path):
        text = yaml.safe_dump(json.loads(json.dumps(asked)), sort_keys=False)
        return "algodistill collect preset.yaml", text.strip()
    own, options = dataclasses.asdict(history_arguments(preset)), []
    for name, value in asked.items():
        if value != own[name]:
            options += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return shlex.join(["algodistill", "collect", path.stem, *options]), None


def default_folder(preset: str | Path) -> Path:
    """Where the histories of a preset are kept."""
    return Path("data") / find_preset(str(preset)).stem


def task_split(arguments: HistoryArguments) -> TaskSplit:
    """The train, validation and test tasks of a job.

    Raises:
        ValueError: If the environment's tasks are not known or too few.
    """
    numbers: dict[str, Any] = {
        "split_seed": arguments.split_seed,
        "train_tasks": arguments.train_tasks,
        "validation_tasks": arguments.validation_tasks,
        "test_tasks": arguments.test_tasks,
    }
    if arguments.tasks is not None:
        return split_described_tasks(arguments.tasks, **numbers)
    if arguments.environment not in TASK_DISTRIBUTIONS:
        known = ", ".join(sorted(TASK_DISTRIBUTIONS))
        raise ValueError(
            f"The tasks of environment {arguments.environment!r} are not known: describe them by "
            f"tasks={{'list': [...]}} or tasks={{'sample': {{...}}}}, or choose one of {known}."
        )
    try:
        distribution = TASK_DISTRIBUTIONS[arguments.environment](**arguments.environment_kwargs)
    except TypeError as error:
        raise ValueError(f"environment_kwargs do not fit {arguments.environment}: {error}.") from error
    return distribution.split(**numbers)


def make_collection(arguments: HistoryArguments) -> Collection:
    """What a job's histories depend on."""
    split = task_split(arguments)
    return Collection(
        environment=arguments.environment,
        environment_kwargs=arguments.environment_kwargs,
        source=arguments.source,
        source_kwargs=arguments.source_kwargs,
        tasks={name: getattr(split, name) for name in SPLITS if getattr(split, name)},
        learners_per_task=arguments.learners_per_task,
        episodes=arguments.episodes,
        seed=arguments.collect_seed,
    )


def collect_into(
    folder: Path, collection: Collection, command: str, preset: str | None = None, *, progress: bool = True
) -> None:
    """Collect into a folder, or continue, or find everything there. Another process that does the same waits.

    Args:
        folder (`Path`): The dataset's folder.
        collection (`Collection`): What is to be collected.
        command (`str`): The command that collects it, for the card.
        preset (`str`, *optional*): The content of the preset that the command names, unless it comes with the package.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on a terminal.

    Raises:
        ValueError: If the folder holds other histories, or something else.
    """
    with alone(folder):
        _collect_into(folder, collection, {"command": command, "preset": preset}, progress=progress)


def _collect_into(folder: Path, collection: Collection, how: dict[str, Any], *, progress: bool) -> None:
    path = folder / config_name(collection.environment) / COLLECTION_FILE
    if not path.exists():
        # What is there has been checked, and can be used where its source algorithm is not installed.
        check_collection(collection)
    # Through JSON, so that what is compared is what can be read back.
    wanted = {**dataclasses.asdict(collection), "shard_transitions": shard_transitions(collection)}
    wanted = json.loads(json.dumps(wanted))
    # How many share the work changes nothing of it.
    wanted["source_kwargs"].pop("processes", None)
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
    elif folder.exists() and any(file.is_file() and not file.name.startswith(".") for file in folder.rglob("*")):
        raise ValueError(f"{folder} holds something that is not a collection of histories: choose another folder.")
    else:
        check_tasks(collection)
        made = {
            "fingerprint": hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest(),
            **how,
            "version": importlib.metadata.version("algodistill"),
            "collection": wanted,
        }
        with whole_file(path) as partial:
            partial.write_text(json.dumps(made, indent=1) + "\n")
    complete = (folder / CARD_FILE).exists() and all(
        shard_path(folder, collection.environment, batch.split, batch.index).exists() for batch in batches(collection)
    )
    if not complete:
        collect_histories(collection, folder, progress=progress)
        write_dataset_card(folder)


def load_histories(
    name_or_path: str | Path, split: str, environment: str | None = None, *, streaming: bool = False
) -> Any:
    """Open a split of a dataset of learning histories; `None` if it has no such split.

    Args:
        name_or_path (`str` or `Path`): A folder or a Hub id.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        environment (`str`, *optional*): Whose histories, where the dataset has those of several environments.
        streaming (`bool`, *optional*, defaults to `False`): Whether to leave the histories where they are and read
            them as a stream.

    Returns:
        `datasets.Dataset`, with `streaming` `datasets.IterableDataset`, or `None`.

    Raises:
        ValueError: If there is no such dataset, it is not Parquet, or one of its files is not whole.
        HubUnavailable: If it is not here, and the Hub cannot be reached.
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
        builder = _builder(str(name_or_path), environment)
        # Other formats can hold what is executed when it is read. `Cache` is what was read as Parquet before.
        if not isinstance(builder, Parquet | Cache):
            raise ValueError(f"expected Parquet files, found {builder.name}")
        if streaming:
            return builder.as_streaming_dataset().get(split)
        builder.download_and_prepare()
        splits: Any = builder.as_dataset()
    except (OSError, ValueError, RuntimeError, httpx2.TransportError, datasets.exceptions.DatasetsError) as error:
        raise_if_unavailable(name_or_path, error)
        raise ValueError(
            f"{name_or_path} is no dataset: it is neither a folder of histories nor to be had from the Hub ({error})."
        ) from error
    return splits.get(split)


def _builder(name_or_path: str, environment: str | None) -> datasets.DatasetBuilder:
    """The dataset's part of an environment if it is divided by environments, else the dataset."""
    config = None if environment is None else config_name(environment)
    if parts := history_shards(Path(name_or_path)):
        # By the files themselves: by a folder's name, `datasets` would give what it read there before.
        own = [part for part in parts if part.name == config] or list(parts)
        if len(own) > 1:
            raise ValueError(f"it has histories of {', '.join(part.name for part in parts)}, none of {config}")
        files = {split: [str(shard) for shard in parts[own[0]] if shard.name.startswith(split)] for split in SPLITS}
        return datasets.load_dataset_builder(
            "parquet", data_files={split: files[split] for split in files if files[split]}
        )
    if config is not None:
        with contextlib.suppress(ValueError):
            return datasets.load_dataset_builder(name_or_path, config)
    return datasets.load_dataset_builder(name_or_path)
