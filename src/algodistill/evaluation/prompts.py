"""Prompts: stretches of a source algorithm's histories that an agent's context starts with."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from ..environments import Task
from ..histories.schema import task_json
from ..histories.windows import WindowCutter, check_histories
from .references import reference_returns


def make_prompts(
    histories: datasets.Dataset,
    environment: str,
    environment_kwargs: Mapping[str, Any],
    tasks: Sequence[Task],
    *,
    quantile: float,
    streams: int,
    context_length: int,
    steps: int | None = None,
    returns_to_go: bool = False,
) -> tuple[list[Mapping[str, Any]], np.ndarray]:
    """Prompts for contexts of so many steps, as [`draw_prompts`] draws them: about half a context, unless their
    `steps` are given, and what is between random and optimal behaviour is measured exactly where both are known.

    Raises:
        ValueError: If the histories are of another environment, or as `draw_prompts` says.
    """
    check_histories(histories.unique("environment"), [], environment)
    # With the step that follows a prompt, what is longer would not fit into a context and not be seen.
    longest = max(context_length - 1, 1)
    return draw_prompts(
        histories,
        tasks,
        quantile=quantile,
        steps=max(context_length // 2, 1) if steps is None else min(steps, longest),
        streams=streams,
        longest=longest,
        levels=reference_returns(environment, environment_kwargs, tasks),
        returns_to_go=returns_to_go,
    )


def draw_prompts(
    histories: datasets.Dataset,
    tasks: Sequence[Task],
    *,
    quantile: float,
    steps: int,
    streams: int,
    longest: int | None = None,
    levels: Sequence[tuple[float | None, float | None]] | None = None,
    returns_to_go: bool = False,
) -> tuple[list[Mapping[str, Any]], np.ndarray]:
    """For every stream some consecutive episodes of a history of its task, from when the learner did so well.

    How well is measured on the way from random (0) to optimal behaviour (1), by the mean return of as many episodes as
    a prompt has: of those up to where it first gets there, the episodes that come nearest are taken. The streams of a
    task take its histories in turn.

    Args:
        histories (`datasets.Dataset`): Learning histories of the tasks.
        tasks (`Sequence[dict]`): The tasks.
        quantile (`float`): How well, from 0 to 1.
        steps (`int`): About how many steps a prompt has: whole episodes, at least one.
        streams (`int`): Number of streams; stream i acts on task i modulo the number of tasks.
        longest (`int`, *optional*): Steps that a prompt has at most: of longer ones, the first steps are left out.
        levels (`Sequence[tuple]`, *optional*): For each task its returns of random and of optimal behaviour; where
            they are not known (`None`), each history's first and best episodes stand for them.
        returns_to_go (`bool`, *optional*, defaults to `False`): Whether prompts say what is still to come of each
            episode's return.

    Returns:
        `tuple[list[Mapping], np.ndarray]`: A prompt for each stream, as [`AlgorithmDistillationAgent.reset`] takes
        them, and the mean return of its episodes, `(streams,)`.

    Raises:
        ValueError: If an argument is out of its range, or there is no history of a task.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"The quantile {quantile} of a prompt is out of range: expected a number from 0 to 1.")
    if min(steps, steps if longest is None else longest) < 1:
        raise ValueError(f"A prompt of {min(steps, longest or 0)} steps holds nothing: expected at least 1.")
    columns = WindowCutter(histories, 1).columns
    of_tasks: dict[str, list[int]] = {}
    for number, task in enumerate(histories["task"]):
        of_tasks.setdefault(task, []).append(number)
    episodes = histories.select_columns(["episode_lengths", "episode_returns"]).with_format("numpy")
    table = histories.select_columns(columns).with_format("arrow")
    prompts: list[Mapping[str, Any]] = []
    returns = []
    for stream in range(streams):
        name = task_json(tasks[stream % len(tasks)])
        if name not in of_tasks:
            raise ValueError(f"The dataset has no history of the task {name} that a prompt could be taken from.")
        number = of_tasks[name][stream // len(tasks) % len(of_tasks[name])]
        lengths, achieved = (episodes[number][column] for column in ("episode_lengths", "episode_returns"))
        if not len(lengths):
            raise ValueError(f"A history of the task {name} has no finished episode that a prompt could show.")
        own_levels = levels[stream % len(tasks)] if levels is not None else (None, None)
        chosen = find_stretch(lengths, achieved, quantile, steps, *own_levels)
        begin, end = int(lengths[: chosen.start].sum()), int(lengths[: chosen.stop].sum())
        begin = begin if longest is None else max(begin, end - longest)
        cutter = WindowCutter(histories, end - begin, returns_to_go=returns_to_go)
        prompts.append(cutter.cut(table[number], begin))
        returns.append(achieved[chosen].mean())
    return prompts, np.array(returns)


def find_stretch(
    lengths: np.ndarray,
    returns: np.ndarray,
    quantile: float,
    steps: int,
    random: float | None = None,
    optimal: float | None = None,
) -> slice:
    """The consecutive episodes of about so many steps in all whose mean return comes nearest to a quantile between
    random and optimal behaviour, no later than it is first reached.

    Args:
        lengths (`np.ndarray`): Lengths of the episodes, `(episodes,)`.
        returns (`np.ndarray`): Their returns, `(episodes,)`.
        quantile (`float`): From 0 (random behaviour) to 1 (optimal).
        steps (`int`): About how many steps: whole episodes, at least one.
        random (`float`, *optional*): Return of random behaviour; by default that of the first episodes.
        optimal (`float`, *optional*): Return of optimal behaviour; by default that of the best episodes.
    """
    count = int(np.clip(round(steps / lengths.mean()), 1, len(lengths)))
    means = np.convolve(returns, np.full(count, 1 / count), mode="valid")
    low, high = (means[0] if random is None else random), (means.max() if optimal is None else optimal)
    wanted = low + quantile * (high - low)
    # What is computed as a mean may miss an exact optimum by rounding.
    reached = means >= wanted - 1e-6 * max(abs(wanted), 1)
    distances = abs((means[: reached.argmax() + 1] if reached.any() else means) - wanted)
    # Of equally near ones the last, whose learner is about to do better.
    first = len(distances) - 1 - int(distances[::-1].argmin())
    return slice(first, first + count)
