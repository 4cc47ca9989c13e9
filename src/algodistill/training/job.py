"""The main job: histories, training, evaluation on held-out tasks, and what is left of it in the run's folder."""

import dataclasses
import importlib.metadata
import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..environments import Task, TaskSplit, make_environments
from ..evaluation import check_streams, draw_prompts, evaluate, load_checkpoint, result_files, summary, write_result
from ..histories import HistoryWindows, StreamedHistoryWindows
from ..histories.processes import available_cores
from ..histories.schema import task_json
from ..histories.windows import WrongHistories, check_histories
from ..histories.writing import whole_file
from ..hub import CARD_FILE, SETTINGS_FILE, Publication, publish, write_model_card
from ..models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser
from ..outcomes import Interrupted, WrongInput, wrong_input
from .arguments import (
    AlgorithmDistillationTrainingArguments,
    EvaluationArguments,
    HistoryArguments,
    ModelArguments,
    WindowArguments,
)
from .collecting import collect_command, collect_into, default_folder, load_histories, make_collection, task_split
from .interruption import SaveOnInterrupt
from .preset import OneLineParser, find_preset, is_shipped, parse_settings, read_preset
from .recipes import expert_return, find_recipe, selection
from .trainer import AlgorithmDistillationTrainer


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
# How the names of settings begin that say where a run is published, and with which token.
HUB_SETTINGS = ("hub_", "push_to_hub")
# Settings that name a repository on the Hub, or a folder here.
LOCAL_SETTINGS = ("dataset", "model_name_or_path")
# Packages whose versions stand in a checkpoint's card.
VERSIONS = ("algodistill", "torch", "transformers", "accelerate", "datasets", "gymnasium", "numpy")
# During training, the model is evaluated on at most so many tasks, and its loss on so many histories.
EVALUATION_TASKS, EVALUATION_HISTORIES = 16, 64

Say = Callable[[str], None]


@dataclasses.dataclass
class Job:
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

    def named(self, setting: str) -> str | None:
        """One of the `LOCAL_SETTINGS`."""
        return self.histories.dataset if setting == "dataset" else self.model.model_name_or_path

    def settings(self) -> dict[str, Any]:
        """What is learnt depends on this, as JSON."""
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in ("histories", "windows", "model")}
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


def run(argv: Sequence[str], say: Say = print) -> None:
    """Run the main job from its command line.

    Raises:
        WrongInput: If what was asked for cannot be done as asked.
        Interrupted: If the user stopped the training; a checkpoint is saved.
    """
    use_all_cores()
    with wrong_input():
        job = parse_job(argv)
        training = job.training
        if training.process_index > 0:
            datasets.disable_progress_bars()
            say = _say_nothing
        split = task_split(job.histories)
        if not all(split.tests.values()):
            raise ValueError("No task is held out to evaluate on: lower --train_tasks, or raise --test_tasks.")
        if all(result_files(job.output, name)[0].exists() for name in split.tests):
            say(f"{job.output} holds a finished run. To start over, delete that folder or give another --output_dir.")
            if training.push_to_hub and training.process_index == 0:
                push(lambda: publish_finished(job), job, say)
            return
        check_settings(job)
        # What else can be found to be wrong before anything is collected or trained.
        find_recipe(job.windows.recipe)
        for tasks in split.tests.values():
            check_streams(len(tasks), job.evaluation.test_streams)
        source = find_histories(job, say)
        set_seed(training.seed)
        prompted = prompt_settings(job, source, split)
        model, tokeniser = make_model(job, split)
        windows = make_windows(job, source, split, model.config.context_length)
        batch = training.train_batch_size * training.world_size
        if isinstance(windows, HistoryWindows) and training.dataloader_drop_last and len(windows) < batch:
            raise ValueError(
                f"There are only {len(windows)} windows to train on, and a batch has {batch}: give more histories, or "
                "lower --per_device_train_batch_size."
            )
        fit_to_histories(job, source, split, model, tokeniser)
        # Wrong values are found now rather than in the middle.
        tokeniser(windows.first() if isinstance(windows, StreamedHistoryWindows) else windows[0])
        warn_of_short_context(first_histories(job, source, "train"), windows.length, say)
        say(f"Training: {sum(weights.numel() for weights in model.parameters()):,} parameters, {describe(windows)}")
        trainer = make_trainer(job, model, tokeniser, windows, source, split)
    try:
        train(job, trainer, argv, say)
    except WrongHistories as error:
        # Those of a stream are only seen as they arrive.
        raise WrongInput(str(error)) from error

    if trainer.is_world_process_zero():
        histories = load(job, source, "test")
        for name, tasks in split.tests.items():
            say(f"Evaluation on {len(tasks)} held-out tasks ({name}), weights frozen")
            result = evaluate(
                trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False),
                tokeniser,
                split=name,
                episodes=job.evaluation.test_episodes,
                streams=job.evaluation.test_streams,
                action_selection=job.evaluation.action_selection,
                seed=job.evaluation.test_seed,
                histories=histories,
                progress=True,
                **prompted,
            )
            write_result(result, job.output)
            say(summary(result))
            say(f"See {result_files(job.output, name)[1]}.")
        write_model_card(job.output)
        say(f"See {job.output / CARD_FILE} for the card.")
    if training.push_to_hub:
        push(trainer.push_to_hub, job, say)


def push(publish_run: Callable[[], Publication | None], job: Job, say: Say) -> None:
    """Publish a run that is finished; whatever comes of that, the run itself is safe."""
    name = job.training.hub_model_id or job.output.absolute().name
    try:
        publication = publish_run()
    except ValueError as error:
        command = shlex.join(["algodistill", "publish", str(job.output), name])
        raise WrongInput(f"{error} The run is finished; to publish it: {command}") from error
    if publication is not None:
        say(f"Published at {publication.url}")


def publish_finished(job: Job) -> Publication:
    """Publish a run that was finished before."""
    training = job.training
    return publish(
        job.output,
        training.hub_model_id or job.output.absolute().name,
        private=bool(training.hub_private_repo),
        revision=training.hub_revision,
        token=training.hub_token,
    )


def _say_nothing(message: str) -> None:
    """What every process but the first has to say."""


def use_all_cores() -> None:
    """Share the cores among the local processes; `accelerate launch` gives each process one thread."""
    torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def check_settings(job: Job) -> None:
    """Raise a `ValueError` if the run's folder holds a run with other settings."""
    file = job.output / SETTINGS_FILE
    if not file.exists():
        return
    found = json.loads(file.read_text()).get("settings", {})
    changed = [
        f"{name} was {found.get(part, {}).get(name)!r}, is {value!r}"
        for part, values in job.settings().items()
        for name, value in values.items()
        if found.get(part, {}).get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{job.output} holds a run with other settings: {'; '.join(changed)}. To start over, "
            "delete that folder or give another --output_dir."
        )


def find_histories(job: Job, say: Say) -> Path | str:
    """The dataset that was given, or the folder of the preset's histories, collected first where they are missing."""
    histories = job.histories
    if histories.dataset is not None:
        return histories.dataset
    if histories.streaming:
        raise ValueError("--streaming reads a dataset that is there already: name it with --dataset.")
    folder = default_folder(job.preset)
    with job.training.main_process_first(desc="collecting histories"):
        if job.training.process_index == 0:
            say(f"Histories: {folder}")
            collect_into(folder, make_collection(histories), *collect_command(job.preset, histories))
    return folder


def load(job: Job, source: Path | str, split: str) -> Any:
    """A split of the job's histories, or `None`."""
    histories = job.histories
    return load_histories(source, split, histories.environment, streaming=histories.streaming)


def first_histories(job: Job, source: Path | str, split: str) -> datasets.Dataset | None:
    """Some histories of a split, on this machine."""
    histories = load(job, source, split)
    if isinstance(histories, datasets.IterableDataset):
        return datasets.Dataset.from_list(list(histories.take(EVALUATION_HISTORIES)), features=histories.features)
    return histories and histories.select(range(min(len(histories), EVALUATION_HISTORIES)))


def prompt_settings(job: Job, source: Path | str, split: TaskSplit) -> dict[str, Any]:
    """What the final evaluation is told of prompts.

    Raises:
        ValueError: If there is nothing that prompts could be taken from, or the quantile is out of its range.
    """
    quantile = job.evaluation.prompt_quantile
    quantile = find_recipe(job.windows.recipe).prompt_quantile if quantile is None else quantile
    if quantile is None:
        return {}
    histories = load(job, source, "test")
    if not isinstance(histories, datasets.Dataset):
        raise ValueError(
            "Prompts are taken from histories of the test tasks, which must be here: "
            + ("leave out --streaming." if job.histories.streaming else f"{source} has no split 'test'.")
        )
    for tasks in split.tests.values():
        # What is wrong with them is found now rather than when the training is done.
        streams = check_streams(len(tasks), job.evaluation.test_streams)
        draw_prompts(histories, tasks, quantile=quantile, steps=1, streams=streams)
    return {"prompt_from": histories, "prompt_quantile": quantile}


def make_windows(
    job: Job, source: Path | str, split: TaskSplit, length: int
) -> HistoryWindows | StreamedHistoryWindows:
    """The windows to train on.

    Raises:
        ValueError: If there are no histories to train on, or they are of another environment or of the test tasks.
    """
    training, environment = job.training, job.histories.environment
    histories = training_histories(job, source, split)
    selected = selection(job.windows)
    seed = training.seed if training.data_seed is None else training.data_seed
    if not job.histories.streaming:
        check_histories(histories.unique("environment"), histories.unique("task"), environment, split.test)
        return HistoryWindows(histories, length, seed=seed, **selected)
    if training.max_steps <= 0:
        raise ValueError("A stream has no end that epochs could be counted by: give --max_steps.")
    return StreamedHistoryWindows(
        histories,
        length,
        seed=seed,
        rank=training.process_index,
        world_size=training.world_size,
        environment=environment,
        held_out_tasks=split.test,
        **selected,
    )


def training_histories(job: Job, source: Path | str, split: TaskSplit) -> Any:
    """The histories to train on, as a dataset or a stream: of all training tasks, or of the first so many.

    Raises:
        ValueError: If there are none, or `max_tasks` is out of its range.
    """
    histories, most = load(job, source, "train"), job.windows.max_tasks
    if histories is None:
        raise ValueError(f"{source} has no split 'train'.")
    if most is None:
        return histories
    if not isinstance(histories, datasets.Dataset):
        raise ValueError("max_tasks chooses among histories that are here: leave out --streaming.")
    if not 1 <= most <= len(split.train):
        raise ValueError(f"max_tasks={most} is out of range: expected 1 to {len(split.train)}, the tasks to train on.")
    kept = np.isin(np.array(histories["task"]), [task_json(task) for task in split.train[:most]])
    return histories.select(np.flatnonzero(kept))


def describe(windows: HistoryWindows | StreamedHistoryWindows) -> str:
    """How much there is to train on."""
    if isinstance(windows, StreamedHistoryWindows):
        return "histories that are read as a stream"
    return f"{len(windows.transitions):,} histories, {int(windows.transitions.sum()):,} transitions kept"


def make_model(job: Job, split: TaskSplit) -> tuple[AlgorithmDistillationModel, HistoryTokeniser]:
    """Build the model and its tokeniser for the job's environment, or load those to start from."""
    histories, arguments, recipe = job.histories, job.model, find_recipe(job.windows.recipe)
    # With the test tasks, so that they are not found to be wrong when the training is done.
    tasks = [*split.train[:1], *split.test]
    envs = make_environments(histories.environment, tasks, **histories.environment_kwargs)
    spaces = envs.single_observation_space, envs.single_action_space
    envs.close()
    if arguments.model_name_or_path is not None:
        model, tokeniser = load_checkpoint(arguments.model_name_or_path)
        tokeniser.check_spaces(*spaces)
        if model.config.return_conditioned != recipe.return_conditioned:
            conditioned = "is" if model.config.return_conditioned else "is not"
            raise ValueError(
                f"{arguments.model_name_or_path} {conditioned} conditioned on returns, unlike the recipe "
                f"{job.windows.recipe!r}."
            )
        model.config.environment, model.config.environment_kwargs = histories.environment, histories.environment_kwargs
        model.config.test_tasks = named_tests(split)
        return model, tokeniser
    tokeniser = HistoryTokeniser(
        *spaces,
        layout=arguments.layout,
        observation_bins=arguments.observation_bins,
        action_bins=arguments.action_bins,
        action_binning=arguments.action_binning,
        return_conditioned=recipe.return_conditioned,
    )
    config = AlgorithmDistillationConfig(
        text_config=arguments.decoder or None,
        observation_sizes=tokeniser.observation_sizes,
        observation_numbers=tokeniser.observation_numbers,
        action_sizes=tokeniser.action_sizes,
        layout=arguments.layout,
        context_length=arguments.context_length,
        label_smoothing=arguments.label_smoothing,
        token_masking=arguments.token_masking,
        embedding_dropout=arguments.embedding_dropout,
        temperature=arguments.temperature,
        return_conditioned=recipe.return_conditioned,
        target_return=arguments.target_return,
        environment=histories.environment,
        environment_kwargs=histories.environment_kwargs,
        test_tasks=named_tests(split),
    )
    return AlgorithmDistillationModel(config), tokeniser


def fit_to_histories(
    job: Job,
    source: Path | str,
    split: TaskSplit,
    model: AlgorithmDistillationModel,
    tokeniser: HistoryTokeniser,
) -> None:
    """Fit the tokeniser to what there is to train on, and find the return to ask for, unless they came with a
    checkpoint that the training starts from.

    All processes read the same histories, and so does a run that is continued.
    """
    to_fit = job.model.model_name_or_path is None
    to_ask = model.config.return_conditioned and model.config.target_return is None
    if not to_fit and not to_ask:
        return
    histories = training_histories(job, source, split)
    if isinstance(histories, datasets.IterableDataset):
        histories = first_histories(job, source, "train")
    if to_fit:
        tokeniser.fit(histories.with_format("numpy"))
    if to_ask:
        model.config.target_return = expert_return(histories, job.windows.expert_share)


def warn_of_short_context(histories: datasets.Dataset | None, context_length: int, say: Say) -> None:
    """Two episodes must fit into a context, else nothing that one showed can help in another."""
    # Where a history is a single episode, all that can be learnt is learnt within it.
    lengths = [of_one for of_one in ([] if histories is None else histories["episode_lengths"]) if len(of_one) > 1]
    longest = max((max(of_one, default=0) for of_one in lengths), default=0)
    if context_length < 2 * longest:
        say(
            f"Warning: a context of {context_length} steps does not hold two episodes of up to {longest} steps: "
            "nothing can be learnt across episodes."
        )


def named_tests(split: TaskSplit) -> list[Task] | dict[str, list[Task]]:
    """The held-out tasks as a checkpoint's configuration names them."""
    return split.test if list(split.tests) == ["test"] else split.tests


def make_trainer(
    job: Job,
    model: AlgorithmDistillationModel,
    tokeniser: HistoryTokeniser,
    windows: HistoryWindows | StreamedHistoryWindows,
    source: Path | str,
    split: TaskSplit,
) -> AlgorithmDistillationTrainer:
    """The trainer, with tasks and histories to evaluate on during training: of the validation tasks if there are any,
    else of training tasks."""
    training, evaluation = job.training, None
    if training.eval_strategy != "no":
        histories = first_histories(job, source, "validation") or first_histories(job, source, "train")
        returns_to_go = model.config.return_conditioned
        evaluation = histories and HistoryWindows(histories, windows.length, returns_to_go=returns_to_go)
    return AlgorithmDistillationTrainer(
        model,
        training,
        processing_class=tokeniser,
        train_dataset=windows,
        eval_dataset=evaluation,
        eval_tasks=(split.validation or split.train)[:EVALUATION_TASKS],
    )


def train(job: Job, trainer: AlgorithmDistillationTrainer, argv: Sequence[str], say: Say) -> None:
    """Train, from the last checkpoint if there is one, and save the model into the run's folder.

    Raises:
        Interrupted: If the user stopped it; a checkpoint is saved.
    """
    interruption = SaveOnInterrupt()
    trainer.add_callback(interruption)
    checkpoint = get_last_checkpoint(job.output) if job.output.is_dir() else None
    if checkpoint:
        say(f"Continuing from {checkpoint}")
    if trainer.is_world_process_zero():
        write_settings(job, argv)
    trainer.train(resume_from_checkpoint=checkpoint)
    if interruption.interrupted:
        raise Interrupted(f"Stopped after step {trainer.state.global_step}, which is saved.")
    # Published only at the end, with the evaluation: hence the trainer's own save, which does not push.
    trainer.save_model(_internal_call=True)
    trainer.save_state()


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
