"""Running learners, many at once, and recording everything they do."""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
from gymnasium.envs.registration import EnvSpec, load_env_creator
from tqdm.auto import tqdm

from ..environments import TASK_DISTRIBUTIONS, Task, make_environment, make_environments
from ..models.spaces_algodistill import describe_space, leaf_name
from ..sources import SOURCES
from .collection import Batch, Collection, typical_episode_length
from .processes import available_cores, work_in_processes
from .schema import history_table, step_columns, task_json
from .spaces import flat_columns, leaf_spaces, smallest_dtype


# Steps by which the memory of a batch of learners grows.
BLOCK_STEPS = 512


class _Recording:
    """The transitions of a batch of learners, time first, in blocks that are added as they run."""

    def __init__(self, learners: int, observation_space: gymnasium.Space, action_space: gymnasium.Space):
        self._observation_space = describe_space(observation_space)
        self._kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            **{
                leaf_name("observations", path): ((learners, *(leaf.shape or ())), smallest_dtype(leaf))
                for path, leaf in leaf_spaces(observation_space).items()
            },
            "actions": ((learners, *(action_space.shape or ())), smallest_dtype(action_space)),
            "rewards": ((learners,), np.float32),
            "terminations": ((learners,), np.bool_),
            "truncations": ((learners,), np.bool_),
        }
        self._blocks: list[dict[str, np.ndarray]] = []
        self._steps = 0

    def append(self, **values: Any) -> None:
        """Add one step of all learners: the `STEP_COLUMNS`, observations as the environments give them."""
        step = self._steps % BLOCK_STEPS
        if step == 0:
            self._blocks.append(
                {name: np.empty((BLOCK_STEPS, *shape), dtype) for name, (shape, dtype) in self._kinds.items()}
            )
        for name, value in flat_columns(self._observation_space, values).items():
            self._blocks[-1][name][step] = value
        self._steps += 1

    def end_to_end(self, column: str, lengths: np.ndarray | None = None) -> np.ndarray:
        """The first `lengths[i]` transitions of each learner i, one learner after the other; by default, all."""
        by_time = np.concatenate([block[column] for block in self._blocks])[: self._steps]
        by_learner = np.ascontiguousarray(by_time.swapaxes(0, 1))
        if lengths is None:
            return by_learner.reshape(-1, *by_learner.shape[2:])
        return by_learner[np.arange(self._steps) < lengths[:, None]]


def _replaced(observations: Any, mask: np.ndarray, others: Any) -> Any:
    """Observations of many environments, those in the mask replaced by others.

    The others are a list of observations, one for each environment in the mask; or they are nested as `observations`
    are, with those of all environments in every leaf.
    """
    if not isinstance(observations, Mapping | tuple):
        replaced = observations.copy()
        replaced[mask] = np.stack(others) if isinstance(others, list) else others[mask]
        return replaced
    parts = observations if isinstance(observations, Mapping) else dict(enumerate(observations))
    of_parts = {
        name: [other[name] for other in others] if isinstance(others, list) else others[name] for name in parts
    }
    replaced = {name: _replaced(part, mask, of_parts[name]) for name, part in parts.items()}
    return replaced if isinstance(observations, Mapping) else tuple(replaced.values())


def make_learners(
    collection: Collection,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    tasks: Sequence[Task],
    rng: np.random.Generator,
) -> Any:
    """A batch of learners for environments with these tasks; those that know the environment are told its tasks, those
    that know what they act in are told that."""
    source = SOURCES[collection.source]
    known: dict[str, Any] = {}
    if getattr(source, "needs_tasks", False):
        if collection.environment not in TASK_DISTRIBUTIONS:
            raise ValueError(f"{collection.source} needs to know the tasks of {collection.environment}.")
        known["task_distribution"] = TASK_DISTRIBUTIONS[collection.environment](**collection.environment_kwargs)
    if getattr(source, "needs_own_tasks", False):
        known["environment"], known["environment_kwargs"] = collection.environment, collection.environment_kwargs
        known["tasks"] = tasks
    return source(observation_space, action_space, len(tasks), rng, **collection.source_kwargs, **known)


def source_observation_space(envs: gymnasium.vector.VectorEnv) -> gymnasium.Space:
    """What source algorithms see of one environment: its observations, or more where it offers more to them."""
    return getattr(envs, "source_observation_space", None) or envs.single_observation_space


def run_learners(collection: Collection, batch: Batch, bar: tqdm) -> pa.Table:
    """Run one batch of learners side by side, each for its `episodes`; return their histories as an Arrow table."""
    n = len(batch.tasks)
    envs = make_environments(collection.environment, batch.tasks, **collection.environment_kwargs)
    observation_space, action_space = envs.single_observation_space, envs.single_action_space
    seen_space = source_observation_space(envs)
    learner_seed, env_seed = _seed_sequence(collection, batch).spawn(2)
    learners = make_learners(collection, seen_space, action_space, batch.tasks, np.random.default_rng(learner_seed))
    recording = _Recording(n, observation_space, action_space)
    episodes = np.zeros(n, dtype=np.int64)
    lengths = np.zeros(n, dtype=np.int64)

    observations, infos = envs.reset(seed=int(env_seed.generate_state(1)[0]))
    seen = infos.get("source_observations", observations)
    while (running := episodes < collection.episodes).any():
        actions = learners.act(seen)
        next_observations, rewards, terminations, truncations, infos = envs.step(actions)
        dones = terminations | truncations
        next_seen = infos.get("source_observations", next_observations)
        reached = next_seen
        if dones.any():
            # The observation that an episode ended with is learnt from, but the record goes on with the next episode.
            final = infos.get("final_info", {}).get("source_observations", infos["final_obs"])
            reached = _replaced(next_seen, dones, final if isinstance(final, Mapping | tuple) else list(final[dones]))
        learners.learn(seen, actions, rewards, reached, terminations, truncations)
        recording.append(
            observations=observations,
            actions=actions,
            rewards=rewards,
            terminations=terminations,
            truncations=truncations,
        )
        observations, seen = next_observations, next_seen
        lengths += running
        finished = dones & running
        if finished.any():
            episodes += finished
            bar.update(int(finished.sum()))
    envs.close()

    steps = {column: recording.end_to_end(column, lengths) for column in step_columns(observation_space)}
    return _batch_table(collection, batch, (observation_space, action_space), lengths, steps)


def run_own_loops(collection: Collection, todo: Sequence[Batch], bar: tqdm) -> Generator[pa.Table]:
    """Run batches of learners that have a loop of their own, in processes; yield their histories batch by batch."""
    if not todo:
        return
    source = SOURCES[collection.source](**collection.source_kwargs)
    envs = make_environments(collection.environment, todo[0].tasks[:1], **collection.environment_kwargs)
    spaces = envs.single_observation_space, envs.single_action_space
    envs.close()
    # What the main module has registered, or defines, processes can only be told.
    spec = gymnasium.spec(collection.environment.rpartition(":")[2])
    if isinstance(spec.entry_point, str) and spec.entry_point.startswith("__main__:"):
        entry_point: Any = load_env_creator(spec.entry_point)
        spec = replace(spec, entry_point=entry_point)
    record = partial(_record_learner, replace(collection, tasks={}), spec, spaces, typical_episode_length(collection))
    pieces = [
        (batch.tasks[index * source.streams], int(seed.generate_state(1)[0]))
        for batch in todo
        for index, seed in enumerate(_seed_sequence(collection, batch).spawn(len(batch.tasks) // source.streams))
    ]
    results = work_in_processes(record, pieces, source.processes or available_cores(), bar.update)
    with contextlib.closing(results):
        for batch in todo:
            streams = [stream for _ in range(len(batch.tasks) // source.streams) for stream in next(results)]
            lengths = np.array([len(stream["rewards"]) for stream in streams])
            steps = {column: np.concatenate([stream.pop(column) for stream in streams]) for column in [*streams[0]]}
            yield _batch_table(collection, batch, spaces, lengths, steps)


def _record_learner(
    collection: Collection,
    spec: EnvSpec,
    spaces: tuple[gymnasium.Space, gymnasium.Space],
    episode_steps: int,
    task: Task,
    seed: int,
    advance: Callable[[], None],
) -> list[dict[str, np.ndarray]]:
    """Run one learner that has a loop of its own; return the step columns of each of its streams."""
    gymnasium.registry.setdefault(spec.id, spec)

    def make() -> gymnasium.Env:
        env = make_environment(collection.environment, task, **collection.environment_kwargs)
        if (env.observation_space, env.action_space) != spaces:
            own = f"{env.observation_space} and {env.action_space}"
            raise ValueError(
                f"The tasks of {collection.environment} do not all have the same spaces: {spaces}, {own}."
            )
        return env

    source = SOURCES[collection.source](**collection.source_kwargs)
    recordings = [_Recording(1, *spaces) for _ in range(source.streams)]
    try:
        source.record(
            [make] * source.streams,
            [recording.append for recording in recordings],
            collection.episodes,
            seed=seed,
            episode_steps=episode_steps,
            on_episode=advance,
        )
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        raise kind(f"The learner of task {task_json(task)} failed: {type(error).__name__}: {error}") from error
    return [{column: recording.end_to_end(column) for column in step_columns(spaces[0])} for recording in recordings]


def _seed_sequence(collection: Collection, batch: Batch) -> np.random.SeedSequence:
    """The root of a batch's randomness."""
    split_number = sorted(collection.tasks).index(batch.split)
    return np.random.SeedSequence([collection.seed, split_number, batch.index])


def _batch_table(
    collection: Collection,
    batch: Batch,
    spaces: tuple[gymnasium.Space, gymnasium.Space],
    lengths: np.ndarray,
    steps: Mapping[str, np.ndarray],
) -> pa.Table:
    """The histories of a batch as an Arrow table."""
    descriptions = [
        {
            "id": f"{batch.split}-{batch.first_learner + index:07d}",
            "task": task_json(task),
            "environment": collection.environment,
            "algorithm": collection.source,
            "seed": collection.seed,
        }
        for index, task in enumerate(batch.tasks)
    ]
    return history_table(*spaces, descriptions, lengths, steps)
