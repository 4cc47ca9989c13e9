"""Which run, which histories and which evaluation a curve comes from: the command, and the folders."""

import dataclasses
from pathlib import Path
from typing import Any

from ..training.arguments import HistoryArguments
from ..training.collecting import default_folder
from ..training.job import Job
from ..training.preset import as_options
from .describing import Curve, named


RUNS = Path("runs") / "experiments"


def command_line(curve: Curve) -> list[str]:
    """What the main job is told to make a curve's run."""
    path = RUNS / "-".join([Path(curve.preset).stem, *named(curve.options)])
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
    return folder.with_name("-".join([folder.name, *named(history_options(curve))]))


def given_dataset(curve: Curve, job: Job) -> str | None:
    """The dataset that a curve or its preset names, instead of having histories collected."""
    collected = None if "dataset" in curve.options else str(histories_folder(curve))
    return None if job.histories.dataset == collected else job.histories.dataset


def evaluation_folder(job: Job, curve: Curve) -> Path:
    """Where the evaluation is that a curve shows."""
    return job.output.joinpath(*["evaluations", "-".join(named(curve.evaluation))] if curve.evaluation else [])
