"""Running an experiment: its trainings and evaluations, one after the other, and what is left of them."""

import contextlib
import dataclasses
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation import evaluate, load_checkpoint, result_files, standard_error, summary, write_result
from ..histories.writing import whole_file
from ..training.arguments import HistoryArguments
from ..training.collecting import collect, default_folder, load_histories, task_split
from ..training.job import Job, check_settings, parse_job
from ..training.job import run as train
from ..training.preset import as_options
from .describing import Curve, Experiment
from .figures import plot_experiment, table


RUNS = Path("runs") / "experiments"
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
    for _, curve in curves:
        check_settings(parse_job(command_line(curve)))
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
    if not is_evaluated(job, job.output):
        with timed(job.output):
            train_as_told(curve, argv, say)
    if not is_evaluated(job, folder):
        with timed(folder):
            evaluate_again(curve, job, folder, say)
    files = [result_files(folder, split)[0] for split in task_split(job.histories).tests]
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
        # By folder: several curves may come from one run.
        "seconds": {str(place): seconds_of(place) for place in dict.fromkeys([job.output, folder])},
        "results": results,
    }


def is_evaluated(job: Job, folder: Path) -> bool:
    """Whether there is a result of every kind of held-out tasks in a folder."""
    return all(result_files(folder, split)[0].exists() for split in task_split(job.histories).tests)


def train_as_told(curve: Curve, argv: list[str], say: Say) -> None:
    """Collect and train, as far as that has not been done."""
    own = history_options(curve)
    if own and "dataset" not in curve.options:
        collect(curve.preset, histories_folder(curve), options=as_options(own))
    train(argv, say)


def evaluate_again(curve: Curve, job: Job, folder: Path, say: Say) -> None:
    """Evaluate a run's checkpoint as a curve wants it, and write the results into a folder."""
    histories = load_histories(histories_folder(curve), "test", job.histories.environment)
    prompts = {"prompt_from": histories} if "prompt_quantile" in curve.evaluation else {}
    own = job.evaluation
    told = {"episodes": own.test_episodes, "streams": own.test_streams, "seed": own.test_seed, **curve.evaluation}
    model, tokeniser = load_checkpoint(job.output, device_map="auto")
    for split in task_split(job.histories).tests:
        result = evaluate(model, tokeniser, split=split, histories=histories, progress=True, **told, **prompts)
        write_result(result, folder)
        say(summary(result))


def command_line(curve: Curve) -> list[str]:
    """What the main job is told to make a curve's run."""
    path = RUNS / "-".join([Path(curve.preset).stem, *_named(curve.options)])
    argv = ["--config", curve.preset, *as_options(curve.options), "--output_dir", str(path)]
    collected = history_options(curve) and "dataset" not in curve.options
    return [*argv, "--dataset", str(histories_folder(curve))] if collected else argv


def history_options(curve: Curve) -> dict[str, Any]:
    """Those of a curve's options that its histories depend on."""
    names = {field.name for field in dataclasses.fields(HistoryArguments)} - {"dataset", "streaming"}
    return {name: value for name, value in curve.options.items() if name in names}


def histories_folder(curve: Curve) -> Path:
    """Where a curve's histories are: with those of its preset, unless its options say otherwise."""
    if (dataset := curve.options.get("dataset")) is not None:
        return Path(dataset)
    folder = default_folder(curve.preset)
    return folder.with_name("-".join([folder.name, *_named(history_options(curve))]))


def evaluation_folder(job: Job, curve: Curve) -> Path:
    """Where the evaluation is that a curve shows."""
    return job.output.joinpath(*["evaluations", "-".join(_named(curve.evaluation))] if curve.evaluation else [])


def _named(options: Mapping[str, Any]) -> list[str]:
    """Options as parts of a folder's name."""
    parts = []
    for name, value in sorted(options.items()):
        # Mappings and lists are too long for a name.
        text = json.dumps(value, sort_keys=True)
        short = hashlib.sha256(text.encode()).hexdigest()[:8] if isinstance(value, dict | list) else str(value)
        parts.append(f"{name}={short.replace('/', '_')}")
    return parts


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
