"""The main job: histories, training, evaluation on held-out tasks, and what is left of it in the run's folder."""

import contextlib
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import torch
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..evaluation import check_streams, evaluate, result_files, summary, write_result
from ..files import alone
from ..histories import HistoryWindows, StreamedHistoryWindows
from ..histories.processes import available_cores
from ..histories.windows import WrongHistories
from ..hub import CARD_FILE, Publication, publish, write_model_card
from ..outcomes import Interrupted, WrongInput, wrong_input
from .building import first_histories, fit_to_histories, load, make_model, make_trainer, make_windows, prompt_settings
from .collecting import collect_command, collect_into, default_folder, make_collection
from .interruption import SaveOnInterrupt
from .job import Job, check_settings, is_evaluated, parse_job, write_settings
from .recipes import unused_settings
from .trainer import AlgorithmDistillationTrainer


Say = Callable[[str], None]


def run(argv: Sequence[str], say: Say = print) -> None:
    """Run the main job from its command line.

    Raises:
        WrongInput: If what was asked for cannot be done as asked.
        Interrupted: If the user stopped the training; a checkpoint is saved.
    """
    use_all_cores()
    with contextlib.ExitStack() as stack:
        with wrong_input():
            job = parse_job(argv)
            if job.training.process_index > 0:
                datasets.disable_progress_bars()
                say = _say_nothing
            if not all(job.split.tests.values()):
                raise ValueError("No task is held out to evaluate on: lower --train_tasks, or raise --test_tasks.")
        with job.training.main_process_first(desc="waiting for other processes"):
            if job.training.process_index == 0:
                stack.enter_context(alone(job.output, say))
        with wrong_input():
            check_settings(job)
        if is_evaluated(job, job.output):
            say(f"{job.output} holds a finished run. To start over, delete that folder or give another --output_dir.")
            if job.training.push_to_hub and job.training.process_index == 0:
                push(lambda: publish_finished(job), job, say)
            return
        with wrong_input():
            check(job, say)
            source = find_histories(job, say)
            trainer = prepare(job, source, say)
        try:
            train(job, trainer, argv, say)
        except WrongHistories as error:
            # Those of a stream are only seen as they arrive.
            raise WrongInput(str(error)) from error
        if trainer.is_world_process_zero():
            evaluate_held_out(job, source, trainer, say)
        if job.training.push_to_hub:
            push(trainer.push_to_hub, job, say)


def check(job: Job, say: Say) -> None:
    """What can be found to be wrong before anything is collected.

    Raises:
        ValueError: If what was asked for cannot be done as asked.
    """
    if unused := unused_settings(job.windows, job.model):
        say(f"Not used by the recipe {job.windows.recipe!r}: {', '.join(unused)}.")
    for tasks in job.split.tests.values():
        check_streams(len(tasks), job.evaluation.test_streams)


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


def prepare(job: Job, source: Path | str, say: Say) -> AlgorithmDistillationTrainer:
    """The trainer, with all that it needs. What can be found to be wrong is found here rather than when the training
    is done.

    Raises:
        ValueError: If what was asked for cannot be done as asked.
    """
    set_seed(job.training.seed)
    prompt_settings(job, source)
    model, tokeniser = make_model(job)
    windows = make_windows(job, source, model.config.context_length)
    fit_to_histories(job, source, model, tokeniser)
    # Finds values that the tokeniser cannot read.
    tokeniser(windows.first() if isinstance(windows, StreamedHistoryWindows) else windows[0])
    warn_of_short_context(first_histories(job, source, "train"), windows.length, say)
    say(f"Training: {sum(weights.numel() for weights in model.parameters()):,} parameters, {describe(windows)}")
    return make_trainer(job, model, tokeniser, windows, source)


def describe(windows: HistoryWindows | StreamedHistoryWindows) -> str:
    """How much there is to train on."""
    if isinstance(windows, StreamedHistoryWindows):
        return "histories that are read as a stream"
    return f"{len(windows.transitions):,} histories, {int(windows.transitions.sum()):,} transitions kept"


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


def evaluate_held_out(job: Job, source: Path | str, trainer: AlgorithmDistillationTrainer, say: Say) -> None:
    """Evaluate the trained model on the test tasks, and write the results and the card into the run's folder."""
    histories, prompts = load(job, source, "test"), prompt_settings(job, source)
    for name, tasks in job.split.tests.items():
        say(f"Evaluation on {len(tasks)} held-out tasks ({name}), weights frozen")
        result = evaluate(
            trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False),
            trainer.tokeniser,
            split=name,
            episodes=job.evaluation.test_episodes,
            streams=job.evaluation.test_streams,
            action_selection=job.evaluation.action_selection,
            seed=job.evaluation.test_seed,
            histories=histories,
            progress=True,
            **prompts,
        )
        write_result(result, job.output)
        say(summary(result))
        say(f"See {result_files(job.output, name)[1]}.")
    write_model_card(job.output)
    say(f"See {job.output / CARD_FILE} for the card.")


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


def use_all_cores() -> None:
    """Share the cores among the local processes; `accelerate launch` gives each process one thread."""
    torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _say_nothing(message: str) -> None:
    """What every process but the first has to say."""
