"""Making environments for tasks: one, or many of them side by side."""

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from .tasks import Task


# How an environment that knows nothing of tasks is given one, as the keys of that task.
WAYS_TO_SET = ("kwargs", "options", "set_task")


class ResetOptions(gymnasium.Wrapper):
    """Begins every episode with the same options, which those given to `reset` add to or overrule."""

    def __init__(self, env: gymnasium.Env, options: Mapping[str, Any]):
        super().__init__(env)
        self._options = dict(options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed, options={**self._options, **(options or {})})


def is_described(task: Task) -> bool:
    """Whether a task says itself how an environment is given it."""
    return isinstance(task, Mapping) and set(task) <= set(WAYS_TO_SET)


def make_environment(environment: str, task: Task, **environment_kwargs: Any) -> gymnasium.Env:
    """Make a single environment with a task.

    A task whose keys are among `kwargs`, `options` and `set_task` suits any environment: it is made with
    `gymnasium.make(environment, **environment_kwargs, **kwargs)`, then `env.unwrapped.set_task(set_task)` is called,
    and every episode begins with `reset(options=options)`. Any other task is given as
    `gymnasium.make(environment, task=task, **environment_kwargs)`.

    Args:
        environment (`str`): A gymnasium id.
        task (`dict`): The task.
        environment_kwargs: What else the environment is made with.

    Raises:
        ValueError: If the id is not registered, or the environment cannot be made so.
    """
    _find_spec(environment)
    kwargs = {**environment_kwargs, **(task.get("kwargs") or {} if is_described(task) else {"task": task})}
    try:
        env = gymnasium.make(environment, disable_env_checker=True, **kwargs)
    except TypeError as error:
        raise ValueError(f"{environment} cannot be made with {', '.join(kwargs)}: {error}") from error
    if not is_described(task):
        return env
    if "set_task" in task:
        if not hasattr(env.unwrapped, "set_task"):
            raise ValueError(f"{environment} has no method set_task: give its tasks as kwargs or as options.")
        env.unwrapped.set_task(task["set_task"])
    return ResetOptions(env, task["options"]) if task.get("options") else env


def make_environments(environment: str, tasks: Sequence[Task], **environment_kwargs: Any) -> VectorEnv:
    """One environment a task, vectorised, with SAME_STEP autoreset.

    An environment that takes `tasks` in a vectorised form of its own is made in that form; any other is run as many
    single ones, as [`make_environment`] makes them.

    Args:
        environment (`str`): A gymnasium id.
        tasks (`Sequence[dict]`): The tasks, one an environment.
        environment_kwargs: What else the environment is made with.

    Raises:
        ValueError: If the id is not registered, an environment cannot be made so, or their spaces differ.
    """
    spec = _find_spec(environment)
    if spec.vector_entry_point is not None and not all(is_described(task) for task in tasks):
        return gymnasium.make_vec(environment, num_envs=len(tasks), tasks=list(tasks), **environment_kwargs)
    makers = [partial(make_environment, environment, task, **environment_kwargs) for task in tasks]
    try:
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    except RuntimeError as error:
        raise ValueError(f"The tasks of {environment} do not all have the same spaces: {error}") from error


def _find_spec(environment: str) -> Any:
    """What is registered under an id, whose module is imported first if the id names one: `"module:Name-v0"`."""
    module, _, name = environment.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"Environment {environment!r} is not registered with gymnasium: {error}") from error
