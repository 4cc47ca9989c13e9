"""What can be found to be wrong with an experiment before its first run takes its time."""

from typing import Any

from ..environments import known_distribution
from ..training.building import prompt_quantile
from ..training.job import Job, check_settings, parse_job
from ..training.recipes import find_recipe
from .describing import Curve, Experiment
from .runs import command_line


# Settings that histories of the same tasks depend on.
COLLECTED = ("source", "source_kwargs", "learners_per_task", "episodes", "collect_seed")


def check_experiment(experiment: Experiment) -> None:
    """Raise a `ValueError` if a run cannot be done, or shown, as described."""
    collected: dict[str, tuple[str, dict[str, Any]]] = {}
    for panel in experiment.panels:
        for curve in panel.curves:
            where, job = f"{panel.title}, curve {curve.label!r}", parse_job(command_line(curve))
            check_settings(job)
            check_evaluation(curve, job, where)
            check_kind(panel.kind, curve, job, where)
            if (dataset := curve.options.get("dataset")) is not None:
                how = {name: getattr(job.histories, name) for name in COLLECTED}
                other, of_other = collected.setdefault(str(dataset), (where, how))
                if of_other != how:
                    raise ValueError(
                        f"{other} and {where} are of histories that are collected in different ways: {dataset} cannot "
                        "hold both."
                    )


def check_evaluation(curve: Curve, job: Job, where: str) -> None:
    """Raise a `ValueError` if a run's checkpoint cannot be evaluated as a curve wants it."""
    quantile = curve.evaluation.get("prompt_quantile", prompt_quantile(job))
    if quantile is not None and not 0 <= quantile <= 1:
        raise ValueError(f"{where}: prompt_quantile={quantile} is out of range: expected a number from 0 to 1.")
    if quantile is None and "prompt_steps" in curve.evaluation:
        raise ValueError(f"{where}: prompt_steps says what prompts are like: also give prompt_quantile.")
    if "target_return" in curve.evaluation and not find_recipe(job.windows.recipe).return_conditioned:
        raise ValueError(f"{where}: the recipe {job.windows.recipe!r} asks for no target_return.")


def check_kind(kind: str, curve: Curve, job: Job, where: str) -> None:
    """Raise a `ValueError` if a panel of this kind cannot show what a curve's run is evaluated on."""
    tests = job.split.tests
    if kind != "bars":
        if len(tests) > 1:
            raise ValueError(
                f"{where}: a panel of the kind {kind!r} shows one kind of held-out tasks, and there are "
                f"{list(tests)}: choose the kind 'bars'."
            )
        return
    environment, kwargs = job.histories.environment, job.histories.environment_kwargs
    known = all(known_distribution(environment, kwargs, tasks) is not None for tasks in tests.values())
    if not known or curve.evaluation.get("episodes", job.evaluation.test_episodes) != 1:
        raise ValueError(
            f"{where}: bars show one episode, between random behaviour, whose return must be known, and the source: "
            "choose another kind."
        )
