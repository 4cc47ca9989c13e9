"""What is to be collected: which source algorithm learns on which tasks, and how that is divided into shards."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..environments import Task, make_environments
from ..sources import SOURCES


# Transitions that one batch of learners holds in memory before they are written as one shard.
SHARD_TRANSITIONS = 4_000_000
# The same for learners with a loop of their own, which are slower: what an interruption costs is to be made up soon.
OWN_LOOP_SHARD_TRANSITIONS = 200_000


@dataclass
class Collection:
    """What is to be collected: all that the histories depend on.

    Attributes:
        environment (`str`): A gymnasium id.
        environment_kwargs (`dict`): What else the environment is made with.
        source (`str`): Name of the source algorithm, a key of `algodistill.sources.SOURCES`.
        source_kwargs (`dict`): Its settings.
        tasks (`dict`): For each split, its tasks.
        learners_per_task (`int`): Independent learners on each task.
        episodes (`int`): Episodes in each history.
        seed (`int`): Seed of all randomness.
    """

    environment: str
    source: str
    tasks: Mapping[str, Sequence[Task]]
    learners_per_task: int
    episodes: int
    seed: int = 0
    environment_kwargs: Mapping[str, Any] = field(default_factory=dict)
    source_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Learners that run together and whose histories make one shard; a task for each environment that they act in."""

    split: str
    index: int
    first_learner: int
    tasks: list[Task]


def batches(collection: Collection) -> list[Batch]:
    """Divide the learners into batches. Learner i of a split works on task i modulo the number of tasks, so that
    every shard has histories of (nearly) all tasks; environments of one learner follow each other."""
    result = []
    for split, tasks in collection.tasks.items():
        streams = streams_per_learner(collection)
        rows = [task for task in list(tasks) * collection.learners_per_task for _ in range(streams)]
        # All environments of a learner are in one batch.
        size = shard_transitions(collection) // (collection.episodes * typical_episode_length(collection))
        size = max(size // streams, 1) * streams
        for index, first in enumerate(range(0, len(rows), size)):
            result.append(Batch(split, index, first, rows[first : first + size]))
    return result


def has_own_loop(collection: Collection) -> bool:
    """Whether the source's learners run their environments themselves, one learner apart from the other."""
    return getattr(SOURCES.get(collection.source), "own_loop", False)


def shard_transitions(collection: Collection) -> int:
    """About how many transitions a shard has."""
    return OWN_LOOP_SHARD_TRANSITIONS if has_own_loop(collection) else SHARD_TRANSITIONS


def streams_per_learner(collection: Collection) -> int:
    """Environments that each learner acts in; the stream of each is recorded as a history of its own."""
    parameter = inspect.signature(SOURCES[collection.source]).parameters.get("streams")
    return 1 if parameter is None else int(collection.source_kwargs.get("streams", parameter.default))


def typical_episode_length(collection: Collection) -> int:
    """Steps in the first episode of random actions: it sets how many learners share a shard, and what the schedules of
    learners with a loop of their own stretch over."""
    task = next(iter(next(iter(collection.tasks.values()))))
    envs = make_environments(collection.environment, [task], **collection.environment_kwargs)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    steps, done = 0, False
    while not done and steps < SHARD_TRANSITIONS:
        _, _, terminations, truncations, _ = envs.step(envs.action_space.sample())
        steps, done = steps + 1, bool(terminations[0] or truncations[0])
    envs.close()
    return steps
