"""Environments whose task is hidden, single and vectorised, and the distributions that their tasks come from."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from .dark_room import DarkRoomEnv, DarkRoomTasks, DarkRoomVectorEnv
from .tasks import Task, TaskDistribution, TaskSplit, split_tasks


__all__ = [
    "TASK_DISTRIBUTIONS",
    "DarkRoomEnv",
    "DarkRoomTasks",
    "DarkRoomVectorEnv",
    "Task",
    "TaskDistribution",
    "TaskSplit",
    "make_environments",
    "split_tasks",
]

gymnasium.register(
    id="algodistill/DarkRoom-v0",
    entry_point="algodistill.environments.dark_room:DarkRoomEnv",
    vector_entry_point="algodistill.environments.dark_room:DarkRoomVectorEnv",
)

TASK_DISTRIBUTIONS: dict[str, Callable[..., TaskDistribution]] = {"algodistill/DarkRoom-v0": DarkRoomTasks}


def make_environments(environment: str, tasks: Sequence[Task], **environment_kwargs: Any) -> VectorEnv:
    """One environment a task, vectorised, with SAME_STEP autoreset.

    An environment without a vectorised form of its own is run as many single ones, each made with
    `gymnasium.make(environment, task=task, **environment_kwargs)`.

    Args:
        environment (`str`): A gymnasium id.
        tasks (`Sequence[dict]`): The tasks, one an environment.
        environment_kwargs: What else the environment is made with.

    Raises:
        ValueError: If the id is not registered.
    """
    try:
        spec = gymnasium.spec(environment)
    except gymnasium.error.Error as error:
        raise ValueError(f"Environment {environment!r} is not registered with gymnasium: {error}") from error
    if spec.vector_entry_point is not None:
        return gymnasium.make_vec(environment, num_envs=len(tasks), tasks=list(tasks), **environment_kwargs)
    return SyncVectorEnv(
        [partial(gymnasium.make, environment, task=task, **environment_kwargs) for task in tasks],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
