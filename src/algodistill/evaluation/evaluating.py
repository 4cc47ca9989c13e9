"""In-context evaluation: mean return per episode on held-out tasks, with what it is to be compared with."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from safetensors import SafetensorError
from transformers import PreTrainedConfig

from ..environments import Task, known_distribution
from ..models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser
from ..outcomes import raise_if_unavailable
from .curves import plot_learning_curve
from .prompts import make_prompts
from .references import references
from .rollouts import check_streams, rollout


RESULT_FILE, CURVE_FILE = "in_context_evaluation.json", "learning_curve.png"


def evaluate(
    model: AlgorithmDistillationModel | str | Path,
    tokeniser: HistoryTokeniser | None = None,
    *,
    revision: str | None = None,
    environment: str | None = None,
    tasks: Sequence[Task] | None = None,
    split: str = "test",
    environment_kwargs: Mapping[str, Any] | None = None,
    episodes: int = 100,
    streams: int | None = None,
    action_selection: str = "sample",
    temperature: float | None = None,
    context_length: int | None = None,
    target_return: float | None = None,
    seed: int = 0,
    histories: datasets.Dataset | None = None,
    prompt_from: datasets.Dataset | None = None,
    prompt_quantile: float = 0.5,
    prompt_steps: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Evaluate a frozen model in its context, by default on the test tasks that its checkpoint names.

    Args:
        model ([`AlgorithmDistillationModel`], `str` or `Path`): The model, or a checkpoint's folder or Hub id.
        tokeniser ([`HistoryTokeniser`], *optional*): Its tokeniser; a checkpoint brings its own.
        revision (`str`, *optional*): Branch, tag or commit of a checkpoint on the Hub.
        environment (`str`, *optional*): A gymnasium id; by default the checkpoint's.
        tasks (`Sequence[dict]`, *optional*): The tasks; by default the checkpoint's test tasks.
        split (`str`, *optional*, defaults to `"test"`): What the tasks are called in the result; where the checkpoint
            names test tasks of several kinds, also which of them to take.
        environment_kwargs (`Mapping`, *optional*): What else the environment is made with; by default what the
            checkpoint says.
        episodes (`int`, *optional*, defaults to `100`): In-context episodes of every stream.
        streams (`int`, *optional*): Streams in all, a multiple of the number of tasks, at least 64 by default.
        action_selection (`str`, *optional*, defaults to `"sample"`): `"sample"` or `"greedy"`.
        temperature (`float`, *optional*): What the logits are divided by before sampling; by default the model's.
        context_length (`int`, *optional*): Steps in a context; by default the model's.
        target_return (`float`, *optional*): Return to ask a return-conditioned model for in every episode; by default
            the model's.
        seed (`int`, *optional*, defaults to `0`): Seed of environments and actions.
        histories (`datasets.Dataset`, *optional*): Learning histories; those of the tasks evaluated give the source
            algorithm's own curve.
        prompt_from (`datasets.Dataset`, *optional*): Learning histories of the tasks. Every stream's context starts
            with some episodes of one of them, as [`draw_prompts`] chooses them.
        prompt_quantile (`float`, *optional*, defaults to `0.5`): How well these episodes do, from 0 (random behaviour)
            to 1 (optimal).
        prompt_steps (`int`, *optional*): About how many steps they have; by default half a context. What is longer
            than a context, without the step that follows, loses its first steps.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar on a terminal.

    Returns:
        `dict`: The content of `in_context_evaluation.json`. `episode_return.mean[k]` is the mean over tasks of each
        task's mean return in in-context episode k, its `standard_error` is over tasks.

    Raises:
        ValueError: If the checkpoint names no environment or tasks and none are given, or something does not fit.
    """
    if isinstance(model, str | Path):
        model, tokeniser = load_checkpoint(model, revision, device_map="auto")
    if tokeniser is None:
        raise ValueError("A model without its tokeniser cannot act: give tokeniser=, or the checkpoint's path.")
    config = model.config
    environment = environment or config.environment
    tasks = tasks if tasks is not None else held_out_tasks(config).get(split)
    if environment is None or tasks is None:
        raise ValueError(
            f"The checkpoint names no environment, or no tasks {split!r} (only {list(held_out_tasks(config))}): give "
            "environment= and tasks=, or split=."
        )
    kwargs = dict((environment_kwargs if environment_kwargs is not None else config.environment_kwargs) or {})
    context_length = config.context_length if context_length is None else context_length
    temperature = config.temperature if temperature is None else temperature
    conditions: dict[str, Any] = {}
    if config.return_conditioned:
        conditions["target_return"] = config.target_return if target_return is None else target_return
    prompts = None
    if prompt_from is not None:
        prompts, prompt_returns = make_prompts(
            prompt_from,
            environment,
            kwargs,
            tasks,
            quantile=prompt_quantile,
            steps=prompt_steps,
            streams=check_streams(len(tasks), streams),
            context_length=context_length,
            returns_to_go=config.return_conditioned,
        )
        conditions["prompt"] = {
            "quantile": prompt_quantile,
            "episode_return": float(prompt_returns.mean()),
            "steps": float(np.mean([len(prompt["rewards"]) for prompt in prompts])),
        }
    start = time.perf_counter()
    returns, environment_steps = rollout(
        model,
        tokeniser,
        environment,
        tasks,
        episodes=episodes,
        streams=streams,
        environment_kwargs=kwargs,
        action_selection=action_selection,
        temperature=temperature,
        context_length=context_length,
        target_return=target_return,
        prompts=prompts,
        seed=seed,
        progress=progress,
    )
    wall_seconds = time.perf_counter() - start
    per_task = returns.mean(axis=1)
    return {
        "environment": environment,
        "split": split,
        "tasks": len(tasks),
        "task_ids": [task_id(environment, kwargs, task) for task in tasks],
        "streams": returns.shape[0] * returns.shape[1],
        "episodes": episodes,
        "context_length": context_length,
        "environment_steps": environment_steps,
        "action_selection": action_selection,
        "temperature": temperature,
        **conditions,
        "seed": seed,
        "episode_return": {
            "mean": per_task.mean(axis=0).tolist(),
            "standard_error": standard_error(per_task),
            "per_task": per_task.tolist(),
        },
        "references": references(environment, kwargs, tasks, histories),
        "wall_seconds": round(wall_seconds, 2),
    }


def held_out_tasks(config: AlgorithmDistillationConfig) -> dict[str, list[Task]]:
    """The test tasks that a checkpoint names, by what they are drawn from."""
    tasks = config.test_tasks
    return tasks if isinstance(tasks, dict) else {"test": tasks} if tasks else {}


def standard_error(per_task: np.ndarray) -> list[float | None]:
    """Standard error of the mean over tasks, for values of shape `(tasks, episodes)`; unknown for a single task."""
    tasks = len(per_task)
    if tasks < 2:
        return [None] * per_task.shape[1]
    return (per_task.std(axis=0, ddof=1) / np.sqrt(tasks)).tolist()


def task_id(environment: str, environment_kwargs: Mapping[str, Any], task: Task) -> str:
    """The task's id in its distribution, or the task itself as JSON where no distribution is known."""
    distribution = known_distribution(environment, environment_kwargs, [task])
    return json.dumps(task, sort_keys=True) if distribution is None else distribution.task_id(task)


def result_files(folder: Path, split: str) -> tuple[Path, Path]:
    """Where an evaluation and its picture go: the split is part of their names unless it is the only one."""
    suffix = "" if split in ("test", "given") else f"_{split}"
    result, curve = (Path(name) for name in (RESULT_FILE, CURVE_FILE))
    return folder / f"{result.stem}{suffix}{result.suffix}", folder / f"{curve.stem}{suffix}{curve.suffix}"


def write_result(result: Mapping[str, Any], folder: Path) -> None:
    """Write `in_context_evaluation.json` and `learning_curve.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file, picture = result_files(folder, result["split"])
    plot_learning_curve(result, picture)
    file.write_text(json.dumps(result, indent=1) + "\n")


def load_checkpoint(
    name_or_path: str | Path, revision: str | None = None, device_map: str | None = None
) -> tuple[AlgorithmDistillationModel, HistoryTokeniser]:
    """Load a model and its tokeniser from a folder or from the Hub, onto the devices that `device_map` says.

    Raises:
        ValueError: If nothing can be read there, or it is not an Algorithm Distillation checkpoint.
        HubUnavailable: If it is not here, and the Hub cannot be reached.
    """
    try:
        config = PreTrainedConfig.get_config_dict(name_or_path, revision=revision)[0]
    except OSError as error:
        raise_if_unavailable(name_or_path, error)
        raise ValueError(
            f"{name_or_path} is no checkpoint: it is neither a folder with a config.json nor to be had from the Hub "
            f"({error})."
        ) from error
    if not isinstance(config, dict) or config.get("model_type") != "algodistill":
        found = config.get("model_type") if isinstance(config, dict) else config
        raise ValueError(f"{name_or_path} holds a model of the type {found!r}: expected 'algodistill'.")
    revision = revision or "main"
    try:
        model, loaded = AlgorithmDistillationModel.from_pretrained(
            name_or_path, revision=revision, device_map=device_map, output_loading_info=True
        )
        tokeniser = HistoryTokeniser.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError, SafetensorError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise_if_unavailable(name_or_path, error)
        # What has been found is a checkpoint; whatever fails then is in its files.
        raise ValueError(f"The checkpoint {name_or_path} cannot be read: {_first_line(error)}") from error
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ValueError(f"The checkpoint {name_or_path} lacks {len(missing)} of its weights, such as {missing[0]}.")
    return model, tokeniser


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
