"""Descriptions of experiments: YAML files that say which runs make which curves of a figure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..hub.cards import shipped_folder
from ..training.preset import find_preset, read_preset


KINDS = ("episodes", "settings", "bars")
# What a checkpoint can be evaluated with once more: arguments of `algodistill.evaluate`, and their types.
EVALUATION_SETTINGS = {
    "episodes": int,
    "streams": int,
    "seed": int,
    "action_selection": str,
    "temperature": (int, float),
    "context_length": int,
    "target_return": (int, float),
    "prompt_quantile": (int, float),
    "prompt_steps": int,
}
PAPER_FILE = Path(__file__).parent / "paper_curves.json"


@dataclass(frozen=True)
class Curve:
    """One curve of a figure: what it is called, and the run that it comes from.

    Attributes:
        label (`str`): Its name in the figure; in a panel of the kind `settings`, a number.
        preset (`str`): The preset that is run: a name, or a file, as seen from here or from the experiment's own.
        options (`dict`): What overrules the preset.
        evaluation (`dict`): What the run's checkpoint is evaluated with once more; if there is nothing, the curve is
            that of the run's own evaluation.
    """

    label: str
    preset: str
    options: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """One part of a figure.

    Attributes:
        title (`str`): Its title.
        curves (`list[Curve]`): Its curves.
        kind (`str`): `"episodes"` draws returns by in-context episode, `"settings"` returns at the end by the labels'
            numbers, `"bars"` returns of every test distribution, scaled so that random is 0 and the source is 1.
        paper (`str`, *optional*): The figure of Laskin et al. 2022 that is drawn too.
        x_label (`str`, *optional*): What the labels count, in a panel of the kind `settings`.
    """

    title: str
    curves: list[Curve]
    kind: str = "episodes"
    paper: str | None = None
    x_label: str | None = None


@dataclass(frozen=True)
class Experiment:
    """Several runs and the figure that is made of them."""

    name: str
    title: str
    panels: list[Panel]


def experiment_names() -> list[str]:
    """The experiments that come with the package."""
    return sorted(file.stem for file in (shipped_folder("configs") / "experiments").glob("*.yaml"))


def experiment_titles() -> dict[str, str]:
    """The experiments that come with the package: what each compares, by name."""
    return {name: read_experiment(find_experiment(name)).title for name in experiment_names()}


def find_experiment(name_or_path: str) -> Path:
    """The file of an experiment: a path, or the name of one that comes with the package.

    Raises:
        ValueError: If there is none; the message names those that there are.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    shipped = shipped_folder("configs") / "experiments" / f"{path.stem}.yaml"
    if shipped.is_file():
        return shipped
    raise ValueError(
        f"There is no experiment {name_or_path!r}: give a YAML file or one of {', '.join(experiment_names())}."
    )


def paper_figures() -> dict[str, Any]:
    """Curves of Laskin et al. 2022, by figure and label: `[episode, return]` each."""
    return json.loads(PAPER_FILE.read_text())["figures"]


def read_experiment(path: Path, overrules: Mapping[str, Any] | None = None) -> Experiment:
    """Read an experiment's description.

    Args:
        path (`Path`): The file.
        overrules (`Mapping`, *optional*): Options that hold for all its runs, whatever they say.

    Raises:
        ValueError: If something is missing, unknown or of the wrong kind; the message says where.
    """
    content = read_preset(path)
    _check_keys(content, {"title", "panels"}, set(), str(path))
    if not isinstance(content["panels"], list) or not content["panels"]:
        raise ValueError(f"{path}: panels={content['panels']!r} is not a list of one panel or more.")
    panels = [
        _read_panel(panel, path, f"{path}, panel {number}", overrules or {})
        for number, panel in enumerate(content["panels"], start=1)
    ]
    if not overrules:
        return Experiment(path.stem, str(content["title"]), panels)
    # What is overruled, for a quick look or another seed, does not replace the experiment's own figure.
    told = [f"{name}={value}" for name, value in overrules.items()]
    return Experiment("-".join([path.stem, *named(overrules)]), f"{content['title']} ({', '.join(told)})", panels)


def named(options: Mapping[str, Any]) -> list[str]:
    """Options as parts of a file's or folder's name."""
    parts = []
    for name, value in sorted(options.items()):
        # Mappings and lists are too long for a name.
        text = json.dumps(value, sort_keys=True)
        short = hashlib.sha256(text.encode()).hexdigest()[:8] if isinstance(value, dict | list) else str(value)
        parts.append(f"{name}={short.replace('/', '_')}")
    return parts


def _read_panel(content: Any, file: Path, where: str, overrules: Mapping[str, Any]) -> Panel:
    optional = {"kind", "preset", "options", "evaluation", "paper", "x_label"}
    _check_keys(content, {"title", "curves"}, optional, where)
    kind = content.get("kind", "episodes")
    if kind not in KINDS:
        raise ValueError(f"{where}: kind={kind!r} is not known: choose one of {list(KINDS)}.")
    paper = content.get("paper")
    if paper is not None and paper not in (known := paper_figures()):
        raise ValueError(f"{where}: paper={paper!r} is not known: choose one of {list(known)}.")
    if not isinstance(content["curves"], dict) or not content["curves"]:
        raise ValueError(f"{where}: curves={content['curves']!r} is not a mapping of labels to what is run, or empty.")
    curves = []
    for label, own in content["curves"].items():
        here = f"{where}, curve {label!r}"
        own = own or {}
        _check_keys(own, set(), {"preset", "options", "evaluation"}, here)
        preset = own.get("preset", content.get("preset"))
        if preset is None:
            raise ValueError(f"{here}: no preset is named, neither here nor for the panel.")
        merged = {}
        for name in ("options", "evaluation"):
            parts = content.get(name) or {}, own.get(name) or {}
            if not all(isinstance(part, dict) for part in parts):
                raise ValueError(f"{here}: {name} are not a mapping of names to values.")
            merged[name] = {**parts[0], **parts[1]}
        _check_keys(merged["evaluation"], set(), set(EVALUATION_SETTINGS), f"{here}, evaluation")
        if kind == "settings":
            _check_number(label, here)
        options = {**merged["options"], **overrules}
        if reserved := sorted({"config", "output_dir"} & set(options)):
            raise ValueError(f"{here}: {reserved[0]} is no option of a run: its preset and its folder are given.")
        beside = file.parent / str(preset)
        preset = beside if beside.is_file() and not Path(str(preset)).is_file() else preset
        find_preset(str(preset))
        curves.append(Curve(str(label), str(preset), options, merged["evaluation"]))
    return Panel(str(content["title"]), curves, kind, paper, content.get("x_label"))


def _check_number(label: Any, where: str) -> None:
    try:
        float(label)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: in a panel of the kind 'settings', labels are numbers.") from error


def _check_keys(content: Any, needed: set[str], optional: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: {content!r} is not a mapping.")
    if missing := sorted(needed - set(content)):
        raise ValueError(f"{where} lacks {', '.join(missing)}.")
    if unknown := sorted(map(str, set(content) - needed - optional)):
        known = ", ".join(sorted(needed | optional))
        raise ValueError(f"{where} has keys that are not known: {', '.join(unknown)}. Known are {known}.")
