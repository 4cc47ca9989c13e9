"""Tasks and their division into train, validation and test tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


Task = dict[str, Any]


@dataclass(frozen=True)
class TaskSplit:
    """Tasks divided into those that histories are trained on, those to tune on, and those held out.

    Attributes:
        train (`list[dict]`): Tasks to train on.
        validation (`list[dict]`): Tasks to tune on.
        tests (`dict[str, list[dict]]`): Held-out tasks, by the name of what they are drawn from; mostly just `"test"`.
    """

    train: list[Task]
    validation: list[Task]
    tests: dict[str, list[Task]]

    @property
    def test(self) -> list[Task]:
        """All held-out tasks."""
        return [task for tasks in self.tests.values() for task in tasks]


class TaskDistribution(Protocol):
    """The set of tasks of an environment, with the reference returns of each.

    It is constructed with the same keyword arguments as the environment, so that both speak of the same room.

    Where optimal behaviour is known, there are two methods more: `task_array(tasks)` puts tasks into an array,
    `(n, ...)`, and `best_actions(task_array, observations, rng)` says what to do in them, `(n,)`, for what a source
    algorithm sees of each.
    """

    def sample(self, n: int, rng: np.random.Generator) -> list[Task]:
        """Draw `n` tasks, as they come in training."""

    def split(
        self, *, split_seed: int, train_tasks: int, validation_tasks: int = 0, test_tasks: int | None = None
    ) -> TaskSplit:
        """Divide the tasks, or draw them, into those to train on, to tune on, and to test on."""

    def check(self, task: Task) -> None:
        """Raise a `ValueError` that names what is wrong if `task` is not one of the distribution's."""

    def task_id(self, task: Task) -> str:
        """A short, stable name of the task."""

    def random_return(self, task: Task) -> float:
        """Expected undiscounted return of one episode under uniformly random actions."""

    def optimal_return(self, task: Task) -> float:
        """Expected undiscounted return of one episode of a policy that knows the task."""


class FiniteTasks:
    """Tasks that can be listed: they are drawn from the list, and divided by permuting it."""

    def tasks(self) -> list[Task]:
        """All tasks, in a fixed order."""
        raise NotImplementedError

    def sample(self, n: int, rng: np.random.Generator) -> list[Task]:
        tasks = self.tasks()
        return [tasks[index] for index in rng.integers(len(tasks), size=n)]

    def split(
        self, *, split_seed: int, train_tasks: int, validation_tasks: int = 0, test_tasks: int | None = None
    ) -> TaskSplit:
        return split_tasks(
            self.tasks(),
            split_seed=split_seed,
            train_tasks=train_tasks,
            validation_tasks=validation_tasks,
            test_tasks=test_tasks,
        )


def split_tasks(
    tasks: Sequence[Task],
    *,
    split_seed: int,
    train_tasks: int,
    validation_tasks: int = 0,
    test_tasks: int | None = None,
) -> TaskSplit:
    """Permute the tasks by `split_seed`; the first train, the next validate, the rest test.

    Args:
        tasks (`Sequence[dict]`): All tasks, in a fixed order.
        split_seed (`int`): Seed of the permutation, which `numpy.random.default_rng` draws.
        train_tasks (`int`): Number of training tasks, at least 1.
        validation_tasks (`int`, *optional*, defaults to `0`): Number of tasks to tune on.
        test_tasks (`int`, *optional*): Number of test tasks; all that remain by default.

    Raises:
        ValueError: If there are fewer tasks than are asked for.
    """
    remaining = len(tasks) - train_tasks - validation_tasks
    test_tasks = remaining if test_tasks is None else test_tasks
    if train_tasks < 1 or validation_tasks < 0 or test_tasks < 0 or test_tasks > remaining:
        raise ValueError(
            f"{len(tasks)} tasks cannot be split into train_tasks={train_tasks}, validation_tasks={validation_tasks} "
            f"and test_tasks={max(test_tasks, 0)}: at least one must train, and there must be enough for all."
        )
    order = np.random.default_rng(split_seed).permutation(len(tasks))
    shuffled = [tasks[index] for index in order]
    test_start = train_tasks + validation_tasks
    return TaskSplit(
        train=shuffled[:train_tasks],
        validation=shuffled[train_tasks:test_start],
        tests={"test": shuffled[test_start : test_start + test_tasks]},
    )
