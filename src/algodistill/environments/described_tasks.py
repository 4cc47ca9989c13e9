"""Tasks of environments from elsewhere, listed in a preset or drawn as it says."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from .making import import_function
from .tasks import Task, TaskSplit, split_tasks


DESCRIPTION = 'expected {"list": [...]} with all tasks, or {"sample": {...}} with what to draw them from'
# Draws in a row that bring nothing new, after which it is taken that there are no more tasks.
MAX_REPEATED_DRAWS = 1000


def split_described_tasks(
    description: Mapping[str, Any],
    *,
    split_seed: int,
    train_tasks: int,
    validation_tasks: int = 0,
    test_tasks: int | None = None,
) -> TaskSplit:
    """Divide the tasks that a preset describes into those to train on, to tune on, and to test on.

    `{"list": [...]}` names all tasks. `{"sample": {...}}` is a task in which some values are to be drawn: a mapping
    with one of these keys stands for

    * `{"uniform": [low, high]}`: a number between the two,
    * `{"integers": [low, high]}`: a whole number from low to high, both included,
    * `{"choice": [...]}`: one of these,
    * `{"call": "module:function", ...}`: what that function returns for these keyword arguments and a `seed`.

    What is chosen from, and what a function is called with, may itself be drawn. The tasks drawn first train, the next
    validate, the rest test.

    Args:
        description (`Mapping`): The tasks; no two are the same.
        split_seed (`int`): Seed of the division, and of what is drawn.
        train_tasks (`int`): Number of training tasks, at least 1.
        validation_tasks (`int`, *optional*, defaults to `0`): Number of tasks to tune on.
        test_tasks (`int`, *optional*): Number of test tasks. Of a list, all that remain by default.

    Raises:
        ValueError: If the description cannot be read, or there are fewer tasks than are asked for.
    """
    if not isinstance(description, Mapping) or len(description) != 1:
        raise ValueError(f"tasks={description!r} cannot be read: {DESCRIPTION}.")
    ((kind, value),) = description.items()
    if kind == "list" and isinstance(value, list):
        if wrong := [task for task in value if not isinstance(task, Mapping)]:
            raise ValueError(f"The task {wrong[0]!r} of the list is not a mapping, such as {{'kwargs': {{...}}}}.")
        if repeated := [text for text, times in Counter(map(_as_json, value)).items() if times > 1]:
            raise ValueError(f"The task {repeated[0]} is listed more than once.")
        return split_tasks(
            [dict(task) for task in value],
            split_seed=split_seed,
            train_tasks=train_tasks,
            validation_tasks=validation_tasks,
            test_tasks=test_tasks,
        )
    if kind != "sample" or not isinstance(value, Mapping):
        raise ValueError(f"tasks={description!r} cannot be read: {DESCRIPTION}.")
    if test_tasks is None:
        raise ValueError("How many tasks to hold out has to be said where they are drawn: give test_tasks.")
    if train_tasks < 1 or validation_tasks < 0 or test_tasks < 0:
        raise ValueError(
            f"train_tasks={train_tasks}, validation_tasks={validation_tasks} and test_tasks={test_tasks} are out of "
            "range: at least one must train."
        )
    tasks = _draw_tasks(value, train_tasks + validation_tasks + test_tasks, np.random.default_rng(split_seed))
    test_start = train_tasks + validation_tasks
    return TaskSplit(tasks[:train_tasks], tasks[train_tasks:test_start], {"test": tasks[test_start:]})


def _draw_tasks(template: Mapping[str, Any], count: int, rng: np.random.Generator) -> list[Task]:
    """Draw so many tasks, no two of them the same."""
    drawn: dict[str, Task] = {}
    repeated = 0
    while len(drawn) < count and repeated < MAX_REPEATED_DRAWS:
        text = _as_json(_draw(template, rng))
        repeated = repeated + 1 if text in drawn else 0
        # As it is read back, so that what is recorded is what was run.
        drawn.setdefault(text, json.loads(text))
    if len(drawn) < count:
        raise ValueError(
            f"{count} tasks are asked for, but {MAX_REPEATED_DRAWS} draws in a row brought none beside the "
            f"{len(drawn)} found before: ask for fewer, or draw from more."
        )
    return list(drawn.values())


def _as_json(task: Task) -> str:
    try:
        return json.dumps(task, sort_keys=True)
    except TypeError as error:
        raise ValueError(
            f"The task {task!r} cannot be written as JSON: {error}. Have it hold numbers, texts, lists and mappings."
        ) from error


def _draw(value: Any, rng: np.random.Generator) -> Any:
    """What a part of a task stands for: itself, or something drawn."""
    if isinstance(value, list):
        return [_draw(item, rng) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "call" in value:
        kwargs = {key: _draw(item, rng) for key, item in value.items() if key != "call"}
        return _call(value["call"], kwargs, rng)
    if len(value) == 1:
        ((kind, among),) = value.items()
        if kind in ("uniform", "integers"):
            return _draw_number(kind, among, rng)
        if kind == "choice":
            if not isinstance(among, list) or not among:
                raise ValueError(f"choice: {among!r} cannot be drawn from: expected a list.")
            return _draw(among[int(rng.integers(len(among)))], rng)
    return {key: _draw(item, rng) for key, item in value.items()}


def _draw_number(kind: str, bounds: Any, rng: np.random.Generator) -> float | int:
    number = int if kind == "integers" else int | float
    fits = isinstance(bounds, list) and len(bounds) == 2
    fits = fits and all(isinstance(bound, number) and not isinstance(bound, bool) for bound in bounds)
    if not fits or not bounds[0] <= bounds[1]:
        kinds = "whole numbers" if kind == "integers" else "numbers"
        raise ValueError(f"{kind}: {bounds!r} cannot be drawn from: expected two {kinds}, the lower one first.")
    low, high = bounds
    try:
        return int(rng.integers(low, high, endpoint=True)) if kind == "integers" else float(rng.uniform(low, high))
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{kind}: {bounds!r} cannot be drawn from: {error}.") from error


def _call(name: Any, kwargs: Mapping[str, Any], rng: np.random.Generator) -> Any:
    called = import_function("call", name)
    try:
        return called(**kwargs, seed=int(rng.integers(2**31)))
    except TypeError as error:
        raise ValueError(f"call: {name!r} does not take {', '.join([*kwargs, 'seed'])}: {error}.") from error
