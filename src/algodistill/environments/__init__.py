"""Environments whose task is hidden, single and vectorised, and the distributions that their tasks come from."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium

from .adversarial_bandit import AdversarialBanditEnv, AdversarialBanditTasks, AdversarialBanditVectorEnv
from .cart_pole import CartPoleEnv
from .dark_key_to_door import DarkKeyToDoorEnv, DarkKeyToDoorTasks, DarkKeyToDoorVectorEnv
from .dark_room import DarkRoomEnv, DarkRoomTasks, DarkRoomVectorEnv
from .described_tasks import split_described_tasks
from .making import is_described, make_environment, make_environments
from .tasks import Task, TaskDistribution, TaskSplit, split_tasks


__all__ = [
    "TASK_DISTRIBUTIONS",
    "AdversarialBanditEnv",
    "AdversarialBanditTasks",
    "AdversarialBanditVectorEnv",
    "CartPoleEnv",
    "DarkKeyToDoorEnv",
    "DarkKeyToDoorTasks",
    "DarkKeyToDoorVectorEnv",
    "DarkRoomEnv",
    "DarkRoomTasks",
    "DarkRoomVectorEnv",
    "Task",
    "TaskDistribution",
    "TaskSplit",
    "known_distribution",
    "make_environment",
    "make_environments",
    "split_described_tasks",
    "split_tasks",
]

# What "hard" means: a larger room, and one reward an episode (Laskin et al. 2022, section 4.1).
HARD: dict[str, Any] = {"size": 17, "reward_once": True}

TASK_DISTRIBUTIONS: dict[str, Callable[..., TaskDistribution]] = {
    "algodistill/AdversarialBandit-v0": AdversarialBanditTasks,
    "algodistill/DarkRoom-v0": DarkRoomTasks,
    "algodistill/DarkRoomHard-v0": partial(DarkRoomTasks, **HARD),
    "algodistill/DarkKeyToDoor-v0": DarkKeyToDoorTasks,
}


def known_distribution(
    environment: str, environment_kwargs: Mapping[str, Any], tasks: Sequence[Task]
) -> TaskDistribution | None:
    """The distribution that tasks of an environment are of; `None` if it has none, or they are described instead."""
    if environment not in TASK_DISTRIBUTIONS or any(is_described(task) for task in tasks):
        return None
    return TASK_DISTRIBUTIONS[environment](**environment_kwargs)


def _register(name: str, module: str, kind: str, kwargs: dict[str, Any] | None = None) -> None:
    gymnasium.register(
        id=f"algodistill/{name}-v0",
        entry_point=f"algodistill.environments.{module}:{kind}Env",
        vector_entry_point=f"algodistill.environments.{module}:{kind}VectorEnv",
        kwargs=kwargs or {},
    )


_register("AdversarialBandit", "adversarial_bandit", "AdversarialBandit")
_register("DarkRoom", "dark_room", "DarkRoom")
_register("DarkRoomHard", "dark_room", "DarkRoom", HARD)
_register("DarkKeyToDoor", "dark_key_to_door", "DarkKeyToDoor")
gymnasium.register("algodistill/CartPole-v0", "algodistill.environments.cart_pole:CartPoleEnv", max_episode_steps=200)
