"""Running an experiment: its trainings and evaluations, one after the other, and what is left of them."""

import contextlib
import dataclasses
import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation import evaluate, load_checkpoint, result_files, standard_error, summary, write_result
from ..files import alone, whole_file
from ..training.building import prompt_settings
from ..training.collecting import collect, load_histories
from ..training.job import Job, is_evaluated, parse_job
from ..training.preset import as_options
from ..training.running import run as train
from .checking import check_experiment
from .describing import Curve, Experiment
from .figures import plot_experiment, table
from .runs import command_line, evaluation_folder, given_dataset, histories_folder, history_options


# How long a run took, in its folder: whoever uses it again says so too.
SECONDS_FILE = "experiment_seconds.json"

Say = Callable[[str], None]


def run_experiment(experiment: Experiment, folder: Path, say: Say = print) -> Path:
    """Run what an experiment consists of, and write `NAME.json` and `NAME.png` into a folder.

    A run that has been finished before, for this or for another experiment, is taken as it is; an interrupted one is
    continued. The figure is drawn anew after every run, with the curves that there are.

    Args:
        experiment ([`Experiment`]): The experiment.
        folder (`Path`): Where the results go; the runs themselves are in `runs/experiments`.
        say (`Callable`, *optional*, defaults to `print`): Tells how it goes on.

    Returns:
        `Path`: The figure.

    Raises:
        ValueError, WrongInput: If a run cannot be done as described, or its folder holds another one.
        Interrupted: If the user stopped a training.
    """
    panels: list[dict[str, Any]] = [
        {**{name: getattr(panel, name) for name in ("title", "kind", "paper", "x_label")}, "curves": []}
        for panel in experiment.panels
    ]
    curves = [(shown, curve) for shown, panel in zip(panels, experiment.panels, strict=True) for curve in panel.curves]
    # All of it is checked before the first run takes its time.
    check_experiment(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    file, figure = folder / f"{experiment.name}.json", folder / f"{experiment.name}.png"
    for number, (shown, curve) in enumerate(curves, start=1):
        say(f"[{number}/{len(curves)}] {shown['title']}: {curve.label}")
        shown["curves"].append(run_curve(curve, say))
        record = {"experiment": experiment.name, "title": experiment.title, "panels": panels}
        with whole_file(file) as partial:
            partial.write_text(json.dumps(record) + "\n")
        plot_experiment(record, figure)
    for shown in panels:
        say("\n".join([shown["title"], *table(shown)]))
    took = {
        place: seconds for shown in panels for curve in shown["curves"] for place, seconds in curve["seconds"].items()
    }
    say(f"All of it took {sum(took.values()) / 60:.0f} minutes.")
    return figure


def run_curve(curve: Curve, say: Say = print) -> dict[str, Any]:
    """Run what a curve comes from, unless that has been done; return what it shows, as JSON."""
    argv = command_line(curve)
    job = parse_job(argv)
    folder = evaluation_folder(job, curve)
    with alone(job.output, say):
        if not is_evaluated(job, job.output):
            with timed(job.output):
                collect_as_told(curve, job)
                train(argv, say)
        if not is_evaluated(job, folder):
            with timed(folder):
                evaluate_again(curve, job, folder, say)
    files = [result_files(folder, split)[0] for split in job.split.tests]
    results = [json.loads(file.read_text()) for file in files]
    for result in results:
        per_task = np.array(result["episode_return"].pop("per_task"))
        last = per_task[:, -max(per_task.shape[1] // 10, 1) :].mean(axis=1, keepdims=True)
        result["last"] = {"mean": float(last.mean()), "standard_error": standard_error(last)[0]}
        del result["task_ids"]
    return {
        "label": curve.label,
        "command": shlex.join(["accelerate", "launch", "-m", "algodistill.train", *argv]),
        "evaluation": curve.evaluation,
        "source": job.histories.source,
        # By folder: several curves may come from one run.
        "seconds": {str(place): seconds_of(place) for place in dict.fromkeys([job.output, folder])},
        "results": rounded(results),
    }


def rounded(value: Any) -> Any:
    """The same as JSON, with five significant digits: more are not known of returns."""
    return json.loads(json.dumps(value), parse_float=lambda number: float(f"{float(number):.5g}"))


def collect_as_told(curve: Curve, job: Job) -> Path | str:
    """The histories that a curve is about: what is given, or else collected, as far as that has not been done."""
    if (dataset := given_dataset(curve, job)) is not None:
        return dataset
    return collect(curve.preset, histories_folder(curve), options=as_options(history_options(curve)))


def evaluate_again(curve: Curve, job: Job, folder: Path, say: Say) -> None:
    """Evaluate a run's checkpoint as a curve wants it, and write the results into a folder."""
    source, own = collect_as_told(curve, job), job.evaluation
    quantile = curve.evaluation.get("prompt_quantile", own.prompt_quantile)
    prompted = dataclasses.replace(job, evaluation=dataclasses.replace(own, prompt_quantile=quantile))
    told = {
        "episodes": own.test_episodes,
        "streams": own.test_streams,
        "seed": own.test_seed,
        "action_selection": own.action_selection,
        **curve.evaluation,
        **prompt_settings(prompted, source),
    }
    histories = load_histories(source, "test", job.histories.environment)
    model, tokeniser = load_checkpoint(job.output, device_map="auto")
    for split in job.split.tests:
        result = evaluate(model, tokeniser, split=split, histories=histories, progress=True, **told)
        write_result(result, folder)
        say(summary(result))


@contextlib.contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Note in a folder how long what makes it takes, in addition to what it took before."""
    before, begin = seconds_of(folder), time.perf_counter()
    try:
        yield
    finally:
        with whole_file(folder / SECONDS_FILE) as partial:
            partial.write_text(json.dumps({"seconds": round(before + time.perf_counter() - begin, 1)}) + "\n")


def seconds_of(folder: Path) -> float:
    """How long a run, or an evaluation, took."""
    file = folder / SECONDS_FILE
    return json.loads(file.read_text())["seconds"] if file.exists() else 0.0
