"""Letting a frozen model learn tasks in its context, many at once."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..environments import Task, make_environments
from ..models import AlgorithmDistillationModel, HistoryTokeniser


def default_streams(tasks: int) -> int:
    """The smallest multiple of the number of tasks that is at least 64."""
    return -(-64 // tasks) * tasks


def check_streams(tasks: int, streams: int | None) -> int:
    """How many streams act on so many tasks, if `streams` are asked for, or none in particular.

    Raises:
        ValueError: If there is no task, or `streams` is not a multiple of the tasks.
    """
    if not tasks:
        raise ValueError("There is no task to act on: give at least one.")
    streams = default_streams(tasks) if streams is None else streams
    if streams < 1 or streams % tasks:
        below = max(streams // tasks, 1) * tasks
        raise ValueError(
            f"streams={streams} is not a multiple of the {tasks} tasks: choose {below} or {below + tasks}."
        )
    return streams


def rollout(
    model: AlgorithmDistillationModel,
    tokeniser: HistoryTokeniser,
    environment: str,
    tasks: Sequence[Task],
    *,
    episodes: int,
    streams: int | None = None,
    environment_kwargs: Mapping[str, Any] | None = None,
    action_selection: str = "sample",
    temperature: float | None = None,
    context_length: int | None = None,
    target_return: float | None = None,
    prompts: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[np.ndarray, int]:
    """Act on tasks, several streams on each, until every stream has completed its episodes.

    Args:
        model ([`AlgorithmDistillationModel`]): The model.
        tokeniser ([`HistoryTokeniser`]): Its tokeniser.
        environment (`str`): A gymnasium id.
        tasks (`Sequence[dict]`): The tasks.
        episodes (`int`): In-context episodes of every stream.
        streams (`int`, *optional*): Streams in all, a multiple of the number of tasks; by default the smallest that
            is at least 64.
        environment_kwargs (`Mapping`, *optional*): What else the environment is made with.
        action_selection (`str`, *optional*, defaults to `"sample"`): `"sample"` or `"greedy"`.
        temperature (`float`, *optional*): What the logits are divided by before sampling; by default the model's.
        context_length (`int`, *optional*): Steps in a context; by default the model's.
        target_return (`float`, *optional*): Return to ask a return-conditioned model for; by default the model's.
        prompts (`Sequence[Mapping]`, *optional*): What each stream's context starts with: one stretch of history a
            stream. Stream i acts on task i modulo the number of tasks.
        seed (`int`, *optional*, defaults to `0`): Seed of the environments and of the choice of actions.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar on a terminal.

    Returns:
        `tuple[np.ndarray, int]`: Undiscounted returns of shape `(tasks, streams per task, episodes)`, and the number
        of environment steps taken.

    Raises:
        ValueError: If there is no task or episode, `streams` is not a multiple of the tasks, or the environment's
            spaces are not the tokeniser's.
    """
    streams = check_streams(len(tasks), streams)
    if episodes < 1:
        raise ValueError(f"episodes={episodes} is out of range: expected at least 1.")
    # A stream that is done goes on until all are; what it still earns collects in one more column.
    returns = np.zeros((streams, episodes + 1))
    episode = np.zeros(streams, dtype=np.int64)
    every_stream = np.arange(streams)
    environment_steps = 0
    every_task = list(tasks) * (streams // len(tasks))
    with (
        contextlib.closing(make_environments(environment, every_task, **(environment_kwargs or {}))) as envs,
        tqdm(total=streams * episodes, desc="Evaluating", unit=" episodes", disable=None if progress else True) as bar,
    ):
        tokeniser.check_spaces(envs.single_observation_space, envs.single_action_space)
        agent = model.agent(
            tokeniser,
            streams,
            seed=seed,
            action_selection=action_selection,
            temperature=temperature,
            context_length=context_length,
            target_return=target_return,
        )
        if prompts is not None:
            agent.reset(prompt=prompts)
        observations, _ = envs.reset(seed=seed)
        while (running := episode < episodes).any():
            actions = agent.act(observations)
            observations, rewards, terminations, truncations, _ = envs.step(actions)
            agent.observe(rewards, terminations, truncations)
            returns[every_stream, episode] += rewards
            environment_steps += int(running.sum())
            finished = (terminations | truncations) & running
            if finished.any():
                episode += finished
                bar.update(int(finished.sum()))
    by_task = returns[:, :episodes].reshape(streams // len(tasks), len(tasks), episodes).swapaxes(0, 1)
    return by_task, environment_steps
