"""Environments whose task is hidden, single and vectorised, and the distributions that their tasks come from."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from .adversarial_bandit import AdversarialBanditEnv, AdversarialBanditTasks, AdversarialBanditVectorEnv
from .dark_key_to_door import DarkKeyToDoorEnv, DarkKeyToDoorTasks, DarkKeyToDoorVectorEnv
from .dark_room import DarkRoomEnv, DarkRoomTasks, DarkRoomVectorEnv
from .tasks import Task, TaskDistribution, TaskSplit, split_tasks


__all__ = [
    "TASK_DISTRIBUTIONS",
    "AdversarialBanditEnv",
    "AdversarialBanditTasks",
    "AdversarialBanditVectorEnv",
    "DarkKeyToDoorEnv",
    "DarkKeyToDoorTasks",
    "DarkKeyToDoorVectorEnv",
    "DarkRoomEnv",
    "DarkRoomTasks",
    "DarkRoomVectorEnv",
    "Task",
    "TaskDistribution",
    "TaskSplit",
    "make_environments",
    "split_tasks",
]

# What "hard" means: a larger room, and one reward an episode (Laskin et al. 2022, section 4.1).
HARD: dict[str, Any] = {"size": 17, "reward_once": True}

for name, module, kind, kwargs in (
    ("AdversarialBandit", "adversarial_bandit", "AdversarialBandit", {}),
    ("DarkRoom", "dark_room", "DarkRoom", {}),
    ("DarkRoomHard", "dark_room", "DarkRoom", HARD),
    ("DarkKeyToDoor", "dark_key_to_door", "DarkKeyToDoor", {}),
):
    gymnasium.register(
        id=f"algodistill/{name}-v0",
        entry_point=f"algodistill.environments.{module}:{kind}Env",
        vector_entry_point=f"algodistill.environments.{module}:{kind}VectorEnv",
        kwargs=kwargs,
    )

TASK_DISTRIBUTIONS: dict[str, Callable[..., TaskDistribution]] = {
    "algodistill/AdversarialBandit-v0": AdversarialBanditTasks,
    "algodistill/DarkRoom-v0": DarkRoomTasks,
    "algodistill/DarkRoomHard-v0": partial(DarkRoomTasks, **HARD),
    "algodistill/DarkKeyToDoor-v0": DarkKeyToDoorTasks,
}


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
