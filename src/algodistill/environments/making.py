"""Making environments for tasks: one, or many of them side by side."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from .tasks import Task


# How an environment that knows nothing of tasks is given one, as the keys of that task.
WAYS_TO_SET = ("kwargs", "options", "set_task")
# What environments raise at what they are made with, or because something of theirs is not installed.
MAKING_ERRORS = (TypeError, ValueError, LookupError, AssertionError, RuntimeError, ImportError, gymnasium.error.Error)


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


def make_environment(environment: str, task: Task, /, **environment_kwargs: Any) -> gymnasium.Env:
    """Make a single environment with a task.

    A task whose keys are among `kwargs`, `options` and `set_task` suits any environment: it is made with
    `gymnasium.make(environment, **environment_kwargs, **kwargs)`, of which `kwargs` overrule the others; then
    `env.unwrapped.set_task(set_task)` is called, and every episode begins with `reset(options=options)`. Any other
    task is given as `gymnasium.make(environment, task=task, **environment_kwargs)`.

    Args:
        environment (`str`): A gymnasium id.
        task (`dict`): The task.
        environment_kwargs: What else the environment is made with.

    Raises:
        ValueError: If the id is not registered, the task is malformed, or the environment cannot be made so.
    """
    _find_spec(environment)
    described = is_described(task)
    kwargs = {**environment_kwargs, **(_mapping(task, "kwargs") if described else {"task": task})}
    try:
        env = gymnasium.make(environment, disable_env_checker=True, **kwargs)
    except MAKING_ERRORS as error:
        given = f" with {', '.join(kwargs)}" if kwargs else ""
        mend = "" if described else f" A task that is set in another way says so by a key: {', '.join(WAYS_TO_SET)}."
        raise ValueError(f"{environment} cannot be made{given}: {str(error).rstrip('.')}.{mend}") from error
    if not described:
        return env
    if "set_task" in task:
        if not hasattr(env.unwrapped, "set_task"):
            raise ValueError(f"{environment} has no method set_task: give its tasks as kwargs or as options.")
        env.unwrapped.set_task(task["set_task"])
    options = _mapping(task, "options")
    return ResetOptions(env, options) if options else env


def make_environments(environment: str, tasks: Sequence[Task], /, **environment_kwargs: Any) -> VectorEnv:
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
    # An empty task says nothing of how it is given: where tasks are taken, it is one of them.
    if not all(is_described(task) and task for task in tasks) and _takes_tasks(spec):
        return gymnasium.make_vec(environment, num_envs=len(tasks), tasks=list(tasks), **environment_kwargs)
    makers = [partial(make_environment, environment, task, **environment_kwargs) for task in tasks]
    try:
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    except RuntimeError as error:
        raise ValueError(f"The tasks of {environment} do not all have the same spaces: {error}") from error


def import_named(module: str) -> Any:
    """Import a module that a setting names.

    Raises:
        ValueError: If it is not the name of a module, or cannot be imported.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{module!r} is not the name of a module: expected package.module.")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"The module {module!r} cannot be imported: {error}. Install it, or put its folder on PYTHONPATH."
        ) from error


def import_function(setting: str, name: Any) -> Callable[..., Any]:
    """Import the function that a setting names: `"package.module:function"`.

    Raises:
        ValueError: If the name is not of that form, its module cannot be imported, or it has no such function.
    """
    module, separator, function = str(name).partition(":")
    found = getattr(import_named(module), function, None) if separator else None
    if not callable(found):
        raise ValueError(f"{setting}: {name!r} names no function: expected module:function.")
    return found


def _mapping(task: Task, key: str) -> Mapping[str, Any]:
    """One of the parts of a task that are given as keyword arguments; an empty one if it is not there."""
    value = task.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{key}: {value!r} of the task {task!r} is not a mapping of names to values.")
    return value or {}


def _takes_tasks(spec: EnvSpec) -> bool:
    """Whether an environment has a vectorised form of its own that is made with `tasks`."""
    creator = spec.vector_entry_point
    if creator is None:
        return False
    parameters = inspect.signature(load_env_creator(creator) if isinstance(creator, str) else creator).parameters
    return "tasks" in parameters or any(item.kind == item.VAR_KEYWORD for item in parameters.values())


def _find_spec(environment: str) -> EnvSpec:
    """What is registered under an id, whose module is imported first if the id names one: `"module:Name-v0"`."""
    module, separator, name = environment.rpartition(":")
    if separator:
        import_named(module)
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        raise ValueError(f"Environment {environment!r} is not registered with gymnasium: {error}") from error
