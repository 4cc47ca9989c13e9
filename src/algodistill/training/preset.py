"""Presets: YAML files that hold all that a job needs, and their meeting with the command line."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..hub.cards import shipped_folder


class UniqueKeyLoader(yaml.SafeLoader):
    """Reads YAML as `safe_load` does, but for keys that are given twice, of which that would drop the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{repeated[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class OneLineParser(HfArgumentParser):
    """An argument parser whose errors are one line rather than pages of usage."""

    def error(self, message: str) -> Any:
        raise ValueError(f"{message} (see --help)")


def find_preset(name_or_path: str) -> Path:
    """The file of a preset: a path, or the name of one that comes with the package.

    Raises:
        ValueError: If there is no such preset; the message names those that there are.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    shipped = shipped_folder("configs")
    by_name = shipped / f"{path.stem}.yaml"
    # `configs/dark_room.yaml` also means the preset that came with the package where no such file lies.
    if str(path.parent) in (".", "configs") and by_name.is_file():
        return by_name
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    raise ValueError(f"There is no preset {name_or_path!r}: give a YAML file or one of {', '.join(names)}.")


def is_shipped(path: Path) -> bool:
    """Whether a preset's file came with the package."""
    return path.resolve().parent == shipped_folder("configs").resolve()


def read_preset(path: Path) -> dict[str, Any]:
    """The settings in a preset's file.

    Raises:
        ValueError: If the file is not a YAML mapping.
    """
    try:
        settings = yaml.load(path.read_text(), Loader=UniqueKeyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not a mapping of names to values: expected lines like 'name: value'.")
    return settings


def as_options(settings: dict[str, Any]) -> list[str]:
    """Settings as command-line options, so that both go through the same checks of type and choice."""
    options = []
    for key, value in settings.items():
        if isinstance(value, list):
            options += [f"--{key}", *map(str, value)]
        elif isinstance(value, dict):
            # What else YAML can hold, such as dates, is text on the command line.
            options.append(f"--{key}={json.dumps(value, default=str)}")
        elif value is not None:
            options.append(f"--{key}={value}")
    return options


def parse_settings(
    dataclass_types: Sequence[Any],
    preset: str | Path,
    options: Sequence[str],
    *,
    other_keys: Sequence[str] = (),
    defaults: dict[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Fill dataclasses from a preset, which options of the command line overrule.

    Args:
        dataclass_types (`Sequence[type]`): The dataclasses.
        preset (`str` or `Path`): The preset, as [`find_preset`] takes it.
        options (`Sequence[str]`): The command line, without the preset's name.
        other_keys (`Sequence[str]`, *optional*): Keys that a preset may have beside these dataclasses' fields.
        defaults (`dict`, *optional*): Settings that hold where neither preset nor command line say otherwise.

    Raises:
        ValueError: If a key or option is unknown, or a value is of the wrong type; the message names it.
    """
    path = find_preset(str(preset))
    parser = OneLineParser(list(dataclass_types), allow_abbrev=False)
    known = {action.dest for action in parser._actions}
    settings = read_preset(path)
    unknown = sorted(set(settings) - known - set(other_keys))
    if unknown:
        raise ValueError(f"{path} has settings that are not known: {', '.join(map(str, unknown))}.")
    merged = {**(defaults or {}), **{key: value for key, value in settings.items() if key in known}}
    try:
        *filled, unknown_options = parser.parse_args_into_dataclasses(
            [*as_options(merged), *options], return_remaining_strings=True, look_for_args_file=False
        )
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown_options:
        raise ValueError(f"Options that are not known: {' '.join(unknown_options)} (see --help).")
    return tuple(filled)
