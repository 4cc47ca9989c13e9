"""The card of a checkpoint, from the files that lie in its folder: what it is, how it learns, how it was made."""

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..evaluation import held_out_tasks, result_files
from ..files import whole_file
from ..models import AlgorithmDistillationConfig
from .cards import CARD_FILE, RESULT_TASK, merge_cards, read_json, render_card


# What a run was told and made with; the training job writes it.
SETTINGS_FILE = "settings.json"
# In-context episodes, counted from 1, whose returns stand in the card.
CARD_EPISODES = (1, 10, 20, 40, 100)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_model_card(folder: Path, name: str | None = None) -> None:
    """Write the card of a checkpoint into its folder. What was written by hand into one that is there already stays.

    Args:
        folder (`Path`): The checkpoint's folder.
        name (`str`, *optional*): What `from_pretrained` finds it by; by default the folder.
    """
    path = folder / CARD_FILE
    existing = path.read_text() if path.exists() else ""
    with whole_file(path) as partial:
        partial.write_text(merge_cards(existing, model_card(folder, name or str(folder))))


def model_card(folder: Path, name: str, dataset: str | None = None) -> str:
    """The card of a checkpoint.

    Args:
        folder (`Path`): Its folder. What is missing in it, such as an evaluation, the card does without.
        name (`str`): What `from_pretrained` finds it by: a Hub id, or a folder.
        dataset (`str`, *optional*): Hub id of the histories that it was trained on; by default what the run was told.
    """
    config = AlgorithmDistillationConfig.from_pretrained(folder)
    run = read_json(folder / SETTINGS_FILE)
    settings = run.get("settings", {})
    dataset = dataset or settings.get("histories", {}).get("dataset")
    if dataset is not None and not is_hub_id(dataset):
        dataset = None
    evaluations = _read_evaluations(folder, list(held_out_tasks(config)) or ["test"])
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="reinforcement-learning",
        tags=[
            "algodistill",
            "algorithm-distillation",
            "in-context-reinforcement-learning",
            "reinforcement-learning",
            *([config.environment] if config.environment else []),
        ],
        datasets=[dataset] if dataset else None,
        model_name=name.rstrip("/").rpartition("/")[-1] if evaluations else None,
        eval_results=[_eval_result(one["result"], point) for one in evaluations for point in one["points"]] or None,
    )
    recipe = "return_conditioned" if config.return_conditioned else "ad"
    values = {
        "name": name,
        "config": config,
        "decoder": config.get_text_config(),
        "recipe": settings.get("windows", {}).get("recipe", recipe),
        "evaluations": evaluations,
        "dataset": dataset,
        "preset": run.get("preset"),
        "preset_text": run.get("preset_text"),
        "command": run.get("command"),
        "training": _training(settings.get("training", {})),
        "versions": run.get("versions") or {"algodistill": importlib.metadata.version("algodistill")},
    }
    return render_card("model_card.md", metadata, values)


def is_hub_id(name: str) -> bool:
    """Whether a name is that of a repository rather than of a folder that lies here."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def _read_evaluations(folder: Path, splits: Sequence[str]) -> list[dict[str, Any]]:
    """The in-context evaluations on these held-out tasks: each with its result, its named points, and its files.

    Raises:
        ValueError: If one of them is damaged.
    """
    evaluations = []
    for split in splits:
        file, picture = result_files(folder, split)
        if result := read_json(file):
            try:
                points = _named_points(result)
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(f"{file} is damaged: evaluate again.") from error
            shown = picture.name if picture.exists() else None
            evaluations.append({"result": result, "points": points, "file": file.name, "picture": shown})
    return evaluations


def _named_points(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The named episodes of the learning curve, with the mean over the tasks and its standard error as text."""
    curve = result["episode_return"]
    points = []
    for episode in sorted({min(episode, len(curve["mean"])) for episode in CARD_EPISODES}):
        mean, error = curve["mean"][episode - 1], curve["standard_error"][episode - 1]
        value = f"{mean:.2f}" if error is None else f"{mean:.2f} +/- {error:.2f}"
        source = (result["references"].get("source") or {"mean": []})["mean"]
        beside = f"{source[episode - 1]:.2f}" if episode <= len(source) else None
        points.append({"episode": episode, "value": value, "source": beside})
    return points


def _training(arguments: dict[str, Any]) -> dict[str, Any]:
    """The training arguments that count: a number of steps overrules a number of epochs."""
    overruled = "num_train_epochs" if arguments.get("max_steps", 0) > 0 else "max_steps"
    return {name: value for name, value in arguments.items() if name != overruled and value is not None}


def _eval_result(result: Mapping[str, Any], point: Mapping[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="reinforcement-learning",
        task_name=RESULT_TASK,
        dataset_type=result["environment"],
        dataset_name=f"{result['environment']}, {result['tasks']} held-out tasks",
        dataset_split=result["split"],
        metric_type="mean_reward",
        metric_name=f"return in in-context episode {point['episode']}, mean +/- standard error over tasks",
        metric_value=point["value"],
    )
