"""The main job: histories, training, evaluation on held-out tasks, and what is left of it in the run's folder."""

import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..environments import TaskSplit, make_environments
from ..evaluation import CURVE_FILE, RESULT_FILE, evaluate, load_checkpoint, summary, write_result
from ..histories import HistoryWindows, check_environment
from ..histories.writing import whole_file
from ..hub import write_model_card
from ..models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser
from ..outcomes import Interrupted, wrong_input
from .arguments import (
    AlgorithmDistillationTrainingArguments,
    EvaluationArguments,
    HistoryArguments,
    ModelArguments,
    WindowArguments,
)
from .collecting import collect_into, default_folder, load_histories, make_collection, task_split
from .interruption import SaveOnInterrupt
from .preset import OneLineParser, find_preset, parse_settings
from .trainer import AlgorithmDistillationTrainer


SETTINGS_FILE = "settings.json"
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
)
# During training, the model is evaluated on at most so many tasks, and its loss on so many histories.
EVALUATION_TASKS, EVALUATION_HISTORIES = 16, 64

Say = Callable[[str], None]


@dataclasses.dataclass
class Experiment:
    """Everything that a preset and the command line ask for."""

    preset: Path
    histories: HistoryArguments
    windows: WindowArguments
    model: ModelArguments
    evaluation: EvaluationArguments
    training: AlgorithmDistillationTrainingArguments

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(str(self.training.output_dir))

    def settings(self) -> dict[str, Any]:
        """What is learnt depends on this, as JSON."""
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in ("histories", "windows", "model")}
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


def parse_experiment(argv: Sequence[str]) -> Experiment:
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
    return Experiment(preset, *parse_settings(ARGUMENTS, preset, options, defaults=defaults))


def run(argv: Sequence[str], say: Say = print) -> None:
    """Run the main job from its command line.

    Raises:
        WrongInput: If what was asked for cannot be done as asked.
        Interrupted: If the user stopped the training; a checkpoint is saved.
    """
    use_all_cores()
    with wrong_input():
        experiment = parse_experiment(argv)
        training = experiment.training
        if training.process_index > 0:
            datasets.disable_progress_bars()
            say = _say_nothing
        if (experiment.output / RESULT_FILE).exists():
            say(
                f"{experiment.output} holds a finished run. To start over, delete that folder or give another "
                "--output_dir."
            )
            return
        check_settings(experiment)
        split = task_split(experiment.histories)
        source = find_histories(experiment, say)
        histories = load_histories(source, "train")
        if histories is None:
            raise ValueError(f"{source} has no split 'train'.")
        check_environment(histories, experiment.histories.environment)
        set_seed(training.seed)
        model, tokeniser = make_model(experiment, split)
        windows = HistoryWindows(
            histories,
            model.config.context_length,
            **dataclasses.asdict(experiment.windows),
            seed=training.seed if training.data_seed is None else training.data_seed,
        )
        tokeniser(windows[0])  # wrong values are found now rather than in the middle
    warn_of_short_context(histories, model.config.context_length, say)
    say(
        f"Training: {sum(parameter.numel() for parameter in model.parameters()):,} parameters, {len(histories):,} "
        f"histories of {len(split.train)} tasks, {int(windows.transitions.sum()):,} transitions kept"
    )
    trainer = train(experiment, model, tokeniser, windows, source, split, say)

    if trainer.is_world_process_zero():
        say(f"Evaluation on {len(split.test)} held-out tasks, weights frozen")
        result = evaluate(
            trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False),
            tokeniser,
            episodes=experiment.evaluation.test_episodes,
            streams=experiment.evaluation.test_streams,
            action_selection=experiment.evaluation.action_selection,
            seed=experiment.evaluation.test_seed,
            histories=load_histories(source, "test"),
            progress=True,
        )
        write_model_card(
            experiment.output,
            result=result,
            config=model.config,
            preset=experiment.preset.stem,
            command=shlex.join(["accelerate", "launch", "train.py", *argv]),
            dataset=experiment.histories.dataset,
            training={name: getattr(training, name) for name in LEARNING_ARGUMENTS},
        )
        write_result(result, experiment.output)
        say(summary(result))
        say(f"See {experiment.output / CURVE_FILE} for the curve, {experiment.output / 'README.md'} for the card.")


def _say_nothing(message: str) -> None:
    """What every process but the first has to say."""


def use_all_cores() -> None:
    """Share the cores among the local processes; `accelerate launch` gives each process one thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def check_settings(experiment: Experiment) -> None:
    """Raise a `ValueError` if the run's folder holds an unfinished run with other settings."""
    file = experiment.output / SETTINGS_FILE
    if not file.exists():
        return
    found = json.loads(file.read_text())
    changed = [
        f"{name} was {found.get(part, {}).get(name)!r}, is {value!r}"
        for part, values in experiment.settings().items()
        for name, value in values.items()
        if found.get(part, {}).get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{experiment.output} holds an unfinished run with other settings: {'; '.join(changed)}. To start over, "
            "delete that folder or give another --output_dir."
        )


def find_histories(experiment: Experiment, say: Say) -> Path | str:
    """The dataset that was given, or the folder of the preset's histories, collected first where they are missing."""
    if experiment.histories.dataset is not None:
        return experiment.histories.dataset
    folder = default_folder(experiment.preset)
    with experiment.training.main_process_first(desc="collecting histories"):
        if experiment.training.process_index == 0:
            say(f"Histories: {folder}")
            collect_into(folder, make_collection(experiment.histories), experiment.preset.stem)
    return folder


def make_model(experiment: Experiment, split: TaskSplit) -> tuple[AlgorithmDistillationModel, HistoryTokeniser]:
    """Build the model and its tokeniser for the experiment's environment, or load those to start from."""
    histories, arguments = experiment.histories, experiment.model
    envs = make_environments(histories.environment, split.train[:1], **histories.environment_kwargs)
    spaces = envs.single_observation_space, envs.single_action_space
    envs.close()
    if arguments.model_name_or_path is not None:
        model, tokeniser = load_checkpoint(arguments.model_name_or_path)
        tokeniser.check_spaces(*spaces)
        model.config.environment, model.config.environment_kwargs = histories.environment, histories.environment_kwargs
        model.config.test_tasks = split.test
        return model, tokeniser
    tokeniser = HistoryTokeniser(*spaces, layout=arguments.layout)
    config = AlgorithmDistillationConfig(
        text_config=arguments.decoder or None,
        observation_sizes=tokeniser.observation_sizes,
        action_sizes=tokeniser.action_sizes,
        layout=arguments.layout,
        context_length=arguments.context_length,
        label_smoothing=arguments.label_smoothing,
        token_masking=arguments.token_masking,
        embedding_dropout=arguments.embedding_dropout,
        temperature=arguments.temperature,
        environment=histories.environment,
        environment_kwargs=histories.environment_kwargs,
        test_tasks=split.test,
    )
    return AlgorithmDistillationModel(config), tokeniser


def warn_of_short_context(histories: datasets.Dataset, context_length: int, say: Say) -> None:
    """Two episodes must fit into a context, else nothing that one showed can help in another."""
    some = histories.select(range(min(len(histories), EVALUATION_HISTORIES)))
    longest = max((max(lengths, default=0) for lengths in some["episode_lengths"]), default=0)
    if context_length < 2 * longest:
        say(
            f"Warning: a context of {context_length} steps does not hold two episodes of up to {longest} steps: "
            "nothing can be learnt across episodes."
        )


def train(
    experiment: Experiment,
    model: AlgorithmDistillationModel,
    tokeniser: HistoryTokeniser,
    windows: HistoryWindows,
    source: Path | str,
    split: TaskSplit,
    say: Say,
) -> AlgorithmDistillationTrainer:
    """Train, from the last checkpoint if there is one, and save the model into the run's folder.

    Raises:
        Interrupted: If the user stopped it; a checkpoint is saved.
    """
    training, interruption = experiment.training, SaveOnInterrupt()
    trainer = AlgorithmDistillationTrainer(
        model,
        training,
        processing_class=tokeniser,
        train_dataset=windows,
        eval_dataset=evaluation_windows(source, windows.length) if training.eval_strategy != "no" else None,
        eval_tasks=(split.validation or split.train)[:EVALUATION_TASKS],
        callbacks=[interruption],
    )
    checkpoint = get_last_checkpoint(experiment.output) if experiment.output.is_dir() else None
    if checkpoint:
        say(f"Continuing from {checkpoint}")
    if trainer.is_world_process_zero():
        with whole_file(experiment.output / SETTINGS_FILE) as partial:
            partial.write_text(json.dumps(experiment.settings(), indent=1) + "\n")
    trainer.train(resume_from_checkpoint=checkpoint)
    if interruption.interrupted:
        raise Interrupted(f"Stopped after step {trainer.state.global_step}, which is saved.")
    trainer.save_model()
    trainer.save_state()
    return trainer


def evaluation_windows(source: Path | str, length: int) -> HistoryWindows:
    """Windows to compute the evaluation loss on: of the validation tasks if there are any, else of training tasks."""
    for split in ("validation", "train"):
        histories = load_histories(source, split)
        if histories is not None:
            break
    assert histories is not None, "the training split was read before"
    return HistoryWindows(histories.select(range(min(len(histories), EVALUATION_HISTORIES))), length)
