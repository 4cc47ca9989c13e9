"""What can be found to be wrong with an experiment before its first run takes its time."""

from pathlib import Path
from typing import Any

from ..environments import known_distribution
from ..evaluation import check_streams
from ..histories.collecting import check_collection
from ..training.building import make_model, prompt_quantile
from ..training.collecting import make_collection
from ..training.job import Job, check_settings, is_evaluated, parse_job
from ..training.recipes import find_recipe
from .describing import EVALUATION_SETTINGS, Curve, Experiment
from .runs import command_line, given_dataset, histories_folder


# Settings that histories of the same tasks depend on.
COLLECTED = ("source", "source_kwargs", "learners_per_task", "episodes", "collect_seed")


def check_experiment(experiment: Experiment) -> None:
    """Raise a `ValueError` if a run cannot be done, or shown, as described; the message says which."""
    collected: dict[str, tuple[str, dict[str, Any]]] = {}
    runs: dict[Path, tuple[str, dict[str, Any]]] = {}
    for panel in experiment.panels:
        shown: dict[str, str] = {}
        for curve in panel.curves:
            where = f"{panel.title}, curve {curve.label!r}"
            try:
                job = parse_job(command_line(curve))
                check_run(curve, job)
                check_evaluation(curve, job)
                check_kind(panel.kind, curve, job)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            other, of_other = runs.setdefault(job.output, (where, job.settings()))
            if of_other != job.settings():
                raise ValueError(f"{other} and {where} are runs of two presets of the same file name: rename one.")
            other = shown.setdefault(str((job.output, curve.evaluation)), curve.label)
            if other != curve.label:
                raise ValueError(f"{where} shows the same as curve {other!r}: what tells them apart is overruled.")
            if (dataset := curve.options.get("dataset")) is not None:
                how = {name: getattr(job.histories, name) for name in COLLECTED}
                other, of_other = collected.setdefault(str(dataset), (where, how))
                if of_other != how:
                    raise ValueError(
                        f"{other} and {where} are of histories that are collected in different ways: {dataset} cannot "
                        "hold both."
                    )


def check_run(curve: Curve, job: Job) -> None:
    """Raise a `ValueError` if a run cannot be done, as far as that is known before there are histories."""
    check_settings(job, mend="delete that folder")
    if is_evaluated(job, job.output):
        return
    for tasks in job.split.tests.values():
        check_streams(len(tasks), job.evaluation.test_streams)
    if given_dataset(curve, job) is None and not histories_folder(curve).exists():
        check_collection(make_collection(job.histories))
    make_model(job)
    if job.windows.episode_stride < 1:
        raise ValueError(f"episode_stride={job.windows.episode_stride} is out of range: expected at least 1.")


def check_evaluation(curve: Curve, job: Job) -> None:
    """Raise a `ValueError` if a run's checkpoint cannot be evaluated as a curve wants it."""
    told = curve.evaluation
    for name, value in told.items():
        expected: Any = EVALUATION_SETTINGS[name]
        if isinstance(value, bool) or not isinstance(value, expected):
            kind = "text" if expected is str else "a whole number" if expected is int else "a number"
            raise ValueError(f"{name}={value!r} in evaluation is not {kind}.")
    for name, low in (("episodes", 1), ("context_length", 1), ("prompt_steps", 1), ("seed", 0)):
        if name in told and told[name] < low:
            raise ValueError(f"{name}={told[name]} is out of range: expected at least {low}.")
    if told.get("temperature", 1) <= 0:
        raise ValueError(f"temperature={told['temperature']} is out of range: expected more than 0.")
    if (selection := told.get("action_selection", "sample")) not in ("sample", "greedy"):
        raise ValueError(f"action_selection={selection!r} is not known: choose 'sample' or 'greedy'.")
    for tasks in job.split.tests.values():
        check_streams(len(tasks), told.get("streams"))
    quantile = told.get("prompt_quantile", prompt_quantile(job))
    if quantile is not None and not 0 <= quantile <= 1:
        raise ValueError(f"prompt_quantile={quantile} is out of range: expected a number from 0 to 1.")
    if quantile is None and "prompt_steps" in told:
        raise ValueError("prompt_steps says what prompts are like: also give prompt_quantile.")
    if "target_return" in told and not find_recipe(job.windows.recipe).return_conditioned:
        raise ValueError(f"the recipe {job.windows.recipe!r} asks for no target_return.")


def check_kind(kind: str, curve: Curve, job: Job) -> None:
    """Raise a `ValueError` if a panel of this kind cannot show what a curve's run is evaluated on."""
    tests = job.split.tests
    if kind != "bars":
        if len(tests) > 1:
            raise ValueError(
                f"a panel of the kind {kind!r} shows one kind of held-out tasks, and there are "
                f"{list(tests)}: choose the kind 'bars'."
            )
        return
    environment, kwargs = job.histories.environment, job.histories.environment_kwargs
    known = all(known_distribution(environment, kwargs, tasks) is not None for tasks in tests.values())
    if not known or curve.evaluation.get("episodes", job.evaluation.test_episodes) != 1:
        raise ValueError(
            "bars show one episode, between random behaviour, whose return must be known, and the source: "
            "choose another kind."
        )
