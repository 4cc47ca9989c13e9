"""What returns are to be compared with: random and optimal behaviour, and source algorithms, on the same tasks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from tqdm.auto import tqdm

from ..environments import Task, known_distribution
from ..histories import Collection
from ..histories.collection import Batch
from ..histories.learners import run_learners


# Source algorithms whose own returns are what results in an environment are measured by.
REFERENCE_SOURCES = {"algodistill/AdversarialBandit-v0": ("ucb1", "thompson")}


def references(
    environment: str,
    environment_kwargs: Mapping[str, Any],
    tasks: Sequence[Task],
    histories: datasets.Dataset | None = None,
) -> dict[str, Any]:
    """Exact returns of random and optimal behaviour, and the source algorithm's curve, as far as they are known."""
    result: dict[str, Any] = {"random": None, "optimal": None, "source": None}
    if returns := reference_returns(environment, environment_kwargs, tasks):
        result["random"], result["optimal"] = np.mean(returns, axis=0).tolist()
    for source in REFERENCE_SOURCES.get(environment, ()):
        result[source] = source_return(source, environment, environment_kwargs, tasks)
    if histories is not None:
        result["source"] = source_curve(histories, tasks)
    return result


def reference_returns(
    environment: str, environment_kwargs: Mapping[str, Any], tasks: Sequence[Task]
) -> list[tuple[float, float]] | None:
    """Exact returns of random and of optimal behaviour on each task, if they are known."""
    distribution = known_distribution(environment, environment_kwargs, tasks)
    if distribution is None:
        return None
    return [(distribution.random_return(task), distribution.optimal_return(task)) for task in tasks]


def source_return(
    source: str, environment: str, environment_kwargs: Mapping[str, Any], tasks: Sequence[Task], runs: int = 200
) -> float:
    """Mean return of a source algorithm's first episode: over tasks, of `runs` learners on each."""
    settings = Collection(
        environment, source, {"test": tasks}, runs, episodes=1, environment_kwargs=environment_kwargs
    )
    batch = Batch("test", 0, 0, list(tasks) * runs)
    with tqdm(disable=True) as bar:
        table = run_learners(settings, batch, bar)
    return float(np.mean(table["episode_returns"].combine_chunks().flatten().to_numpy()))


def source_curve(histories: datasets.Dataset, tasks: Sequence[Task]) -> dict[str, list[float]] | None:
    """The source algorithm's mean return per episode: over tasks, of each task's mean over its learners.

    Episodes count as far as every learner of these tasks got. `None` if there is no history of these tasks.
    """
    wanted = {json.dumps(task, sort_keys=True) for task in tasks}
    returns: dict[str, list[np.ndarray]] = {}
    for row in histories.select_columns(["task", "episode_returns"]).with_format("numpy"):
        task = str(row["task"])
        if task in wanted:
            returns.setdefault(task, []).append(row["episode_returns"])
    episodes = min((len(curve) for curves in returns.values() for curve in curves), default=0)
    if not episodes:
        return None
    per_task = np.stack([np.mean([curve[:episodes] for curve in curves], axis=0) for curves in returns.values()])
    return {"mean": per_task.mean(axis=0).tolist()}
