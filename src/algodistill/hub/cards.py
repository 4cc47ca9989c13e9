"""Cards: what someone reads who has just found a dataset of histories or a checkpoint."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2


def shipped_folder(name: str) -> Path:
    """A folder that comes with the project: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parents[1] / name


def write_card(template: str, path: Path, values: Mapping[str, Any]) -> None:
    """Fill a template of `hub_cards/` and write it.

    Args:
        template (`str`): Name of the template's file.
        path (`Path`): Where the card goes.
        values (`Mapping`): What the template names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(shipped_folder("hub_cards")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    version = importlib.metadata.version("algodistill")
    path.write_text(environment.get_template(template).render(version=version, **values))


def write_model_card(
    folder: Path,
    *,
    result: Mapping[str, Any],
    config: Any,
    preset: str,
    command: str,
    dataset: str | None,
    training: Mapping[str, Any],
) -> None:
    """Write the card of a checkpoint from its evaluation on held-out tasks.

    Args:
        folder (`Path`): The checkpoint's folder.
        result (`Mapping`): The content of its `in_context_evaluation.json`.
        config ([`AlgorithmDistillationConfig`]): Its configuration.
        preset (`str`): The preset that it was trained with.
        command (`str`): The command that made it.
        dataset (`str`, *optional*): Hub id or folder of the histories it was trained on, if they were given.
        training (`Mapping`): The training arguments that matter.
    """
    mean, error = result["episode_return"]["mean"], result["episode_return"]["standard_error"]
    shown = sorted({min(episode, len(mean)) for episode in (1, 10, 20, 40, 100)})
    curve = [{"episode": episode, "mean": mean[episode - 1], "error": error[episode - 1]} for episode in shown]
    write_card(
        "model_card.md",
        folder / "README.md",
        {
            "result": result,
            "config": config,
            "decoder": config.get_text_config(),
            "preset": preset,
            "command": command,
            "dataset": dataset,
            "training": training,
            "curve": curve,
            "name": folder.name,
        },
    )
