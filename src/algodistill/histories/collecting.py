"""Collecting learning histories into files: every shard of a collection, whole or not at all."""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..environments import make_environment, make_environments
from ..sources import SOURCES
from .collection import Collection, batches, has_own_loop, streams_per_learner
from .learners import make_learners, run_learners, run_own_loops, source_observation_space
from .writing import shard_path, write_shard


def check_collection(collection: Collection) -> None:
    """Make one learner, and let it act once: wrong settings are found before anything is written.

    Raises:
        ValueError: If the source algorithm is not known, or a setting is out of its range or not one of its own.
    """
    if collection.source not in SOURCES:
        raise ValueError(f"source {collection.source!r} is not known: choose one of {sorted(SOURCES)}.")
    for name, low in (("learners_per_task", 1), ("episodes", 1), ("seed", 0)):
        if getattr(collection, name) < low:
            raise ValueError(f"{name}={getattr(collection, name)} is out of range: expected at least {low}.")
    task = next(iter(next(iter(collection.tasks.values()))))
    own_loop = has_own_loop(collection)
    # A learner without a stream is for its source to refuse.
    tasks = [task] * (1 if own_loop else max(streams_per_learner(collection), 1))
    envs = make_environments(collection.environment, tasks, **collection.environment_kwargs)
    with contextlib.closing(envs):
        spaces = source_observation_space(envs), envs.single_action_space
        try:
            if own_loop:
                source = SOURCES[collection.source](**collection.source_kwargs)
                make = partial(make_environment, collection.environment, task, **collection.environment_kwargs)
                source.record([make] * source.streams, [_forget] * source.streams, 0)
                return
            learners = make_learners(collection, *spaces, tasks, np.random.default_rng(0))
        except (AssertionError, TypeError) as error:
            raise ValueError(f"source_kwargs do not fit {collection.source}: {str(error).rstrip('.')}.") from error
        observations, infos = envs.reset(seed=0)
        learners.act(infos.get("source_observations", observations))


def _forget(**step: Any) -> None:
    """Take a step that is not recorded."""


def check_tasks(collection: Collection) -> None:
    """Make the environments of all tasks: a wrong task is found before anything is written.

    Raises:
        ValueError: If one cannot be made, or their spaces differ.
    """
    every_task = [task for tasks in collection.tasks.values() for task in tasks]
    make_environments(collection.environment, every_task, **collection.environment_kwargs).close()


def collect_histories(collection: Collection, folder: Path, *, progress: bool = True) -> None:
    """Run all learners and write their histories below `folder`, skipping the shards that are there already.

    Every shard depends only on the collection and its own number, so a collection that was interrupted, however
    abruptly, continues and ends with the same files. [`check_collection`] says beforehand whether it can be run.
    """
    todo = batches(collection)
    bar = tqdm(
        total=sum(len(batch.tasks) for batch in todo) * collection.episodes,
        desc="Collecting",
        unit=" episodes",
        unit_scale=True,
        disable=None if progress else True,
    )
    with bar:
        missing = []
        for batch in todo:
            if shard_path(folder, collection.environment, batch.split, batch.index).exists():
                bar.update(len(batch.tasks) * collection.episodes)
            else:
                missing.append(batch)
        if has_own_loop(collection):
            tables = run_own_loops(collection, missing, bar)
        else:
            tables = (run_learners(collection, batch, bar) for batch in missing)
        with contextlib.closing(tables):
            for batch in missing:
                # Not kept in a variable: the next batch needs the memory.
                write_shard(shard_path(folder, collection.environment, batch.split, batch.index), next(tables))
