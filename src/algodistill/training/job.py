"""Jobs: what the main job is told, by a preset and the command line, and the record of it in the run's folder."""

import dataclasses
import functools
import importlib.metadata
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..environments import TaskSplit
from ..evaluation import result_files
from ..files import whole_file
from ..hub import SETTINGS_FILE
from ..hub.cards import read_json
from .arguments import (
    AlgorithmDistillationTrainingArguments,
    EvaluationArguments,
    HistoryArguments,
    ModelArguments,
    WindowArguments,
)
from .collecting import task_split
from .preset import OneLineParser, find_preset, is_shipped, parse_settings, read_preset


ARGUMENTS: tuple[Any, ...] = (
    HistoryArguments,
    WindowArguments,
    ModelArguments,
    EvaluationArguments,
    AlgorithmDistillationTrainingArguments,
)
# Training arguments that what is learnt depends on; a run is only continued with the same ones.
LEARNING_ARGUMENTS = (
    "seed",
    "max_steps",
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "warmup_steps",
    "lr_scheduler_type",
    "optim",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "data_seed",
)
# How the names of settings begin that say where a run is published, and with which token.
HUB_SETTINGS = ("hub_", "push_to_hub")
# Settings that name a repository on the Hub, or a folder here.
LOCAL_SETTINGS = ("dataset", "model_name_or_path")
# Packages whose versions stand in a checkpoint's card.
VERSIONS = ("algodistill", "torch", "transformers", "accelerate", "datasets", "gymnasium", "numpy")


@dataclasses.dataclass
class Job:
    """Everything that a preset and the command line ask for."""

    preset: Path
    histories: HistoryArguments
    windows: WindowArguments
    model: ModelArguments
    evaluation: EvaluationArguments
    training: AlgorithmDistillationTrainingArguments

    @functools.cached_property
    def split(self) -> TaskSplit:
        """The train, validation and test tasks.

        Raises:
            ValueError: If the environment's tasks are not known or too few.
        """
        return task_split(self.histories)

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(str(self.training.output_dir))

    def named(self, setting: str) -> str | None:
        """One of the `LOCAL_SETTINGS`."""
        return self.histories.dataset if setting == "dataset" else self.model.model_name_or_path

    def settings(self) -> dict[str, Any]:
        """What is learnt, and what comes of it in the evaluation, depends on this; as JSON."""
        names = ("histories", "windows", "model", "evaluation")
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in names}
        for part in parts.values():
            # Where they lie on this machine is nobody's business: settings are published.
            here = {key: Path(str(part.get(key))) for key in LOCAL_SETTINGS if part.get(key)}
            part.update({key: path.name for key, path in here.items() if path.exists()})
        # How many share the work of collecting changes nothing of it.
        parts["histories"]["source_kwargs"].pop("processes", None)
        parts["training"] = {name: getattr(self.training, name) for name in LEARNING_ARGUMENTS}
        return json.loads(json.dumps(parts))


def make_parser() -> OneLineParser:
    """The command line of the main job."""
    parser = OneLineParser(
        list(ARGUMENTS),
        prog="train.py",
        description="Collect learning histories, distil them, and evaluate the model on held-out tasks.",
    )
    parser.add_argument("--config", required=True, help="Preset: a YAML file or the name of one that comes along.")
    return parser


def parse_job(argv: Sequence[str]) -> Job:
    """Read `--config PRESET` and the options that overrule it.

    Raises:
        ValueError: If the preset, a key or an option is wrong.
    """
    if {"-h", "--help"} & set(argv):
        make_parser().parse_args(["--help"])
    first = OneLineParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    known, options = first.parse_known_args(list(argv))
    if known.config is None:
        raise ValueError("No preset was given: say --config configs/dark_room.yaml, or the name of another preset.")
    preset = find_preset(known.config)
    defaults = {"output_dir": str(Path("runs") / preset.stem), "report_to": "none"}
    return Job(preset, *parse_settings(ARGUMENTS, preset, options, defaults=defaults))


def is_evaluated(job: Job, folder: Path) -> bool:
    """Whether there is a result of every kind of held-out tasks in a folder."""
    return all(result_files(folder, name)[0].exists() for name in job.split.tests)


def check_settings(job: Job, mend: str = "delete that folder or give another --output_dir") -> None:
    """Raise a `ValueError` if the run's folder holds a run with other settings."""
    file = job.output / SETTINGS_FILE
    if not file.exists():
        return
    found = read_json(file).get("settings", {})
    changed = [
        f"{name} was {found[part][name]!r}, is {value!r}"
        for part, values in job.settings().items()
        for name, value in values.items()
        # What an earlier version did not write down is not known.
        if name in found.get(part, {}) and not _same(name, found[part][name], value)
    ]
    if changed:
        raise ValueError(f"{job.output} holds a run with other settings: {'; '.join(changed)}. To start over, {mend}.")


def _same(name: str, found: Any, value: Any) -> bool:
    """Whether two values of a setting are the same; a folder is named as it was when it lay here."""
    if name in LOCAL_SETTINGS and found and value:
        return Path(found).name == Path(value).name
    return found == value


def write_settings(job: Job, argv: Sequence[str]) -> None:
    """Write down what the run was told and what it is made with: for its card, and for whoever continues it."""
    shipped = is_shipped(job.preset)
    made = {
        "preset": job.preset.stem,
        # The content of a preset that does not come with the package.
        "preset_text": None if shipped else without_hub_settings(job.preset),
        "command": shlex.join(["accelerate", "launch", "-m", "algodistill.train", *repeatable(argv, job)]),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "settings": job.settings(),
    }
    with whole_file(job.output / SETTINGS_FILE) as partial:
        partial.write_text(json.dumps(made, indent=1) + "\n")


def without_hub_settings(preset: Path) -> str:
    """The content of a preset without where a run is published, and with which token."""
    settings = read_preset(preset)
    kept = {name: value for name, value in settings.items() if not str(name).startswith(HUB_SETTINGS)}
    return preset.read_text() if kept == settings else yaml.safe_dump(kept, sort_keys=False)


def repeatable(argv: Sequence[str], job: Job) -> list[str]:
    """The command line as somebody else would give it: without what is published where and with which token, and
    without places on this machine."""
    shipped = is_shipped(job.preset)
    kept, keeping = ["--config", job.preset.stem if shipped else job.preset.name], True
    for argument in argv:
        if argument.startswith("--"):
            name, _, _ = argument[2:].replace("-", "_").partition("=")
            keeping = not name.startswith(HUB_SETTINGS) and name not in ("config", "output_dir")
            keeping = keeping and not (name in LOCAL_SETTINGS and Path(str(job.named(name))).exists())
        if keeping:
            kept.append(argument)
    return kept
