"""What a job is made of: the windows, the model with its tokeniser, the prompts, and the trainer that they go into."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..environments import Task, TaskSplit, make_environments
from ..evaluation import check_streams, draw_prompts, load_checkpoint
from ..histories import HistoryWindows, StreamedHistoryWindows
from ..histories.schema import task_json
from ..histories.windows import check_histories
from ..models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser
from .collecting import load_histories
from .job import Job
from .recipes import expert_return, find_recipe, selection
from .trainer import AlgorithmDistillationTrainer


# During training, the model is evaluated on at most so many tasks, and its loss on so many histories.
EVALUATION_TASKS, EVALUATION_HISTORIES = 16, 64


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


def training_histories(job: Job, source: Path | str) -> Any:
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
    if not 1 <= most <= len(job.split.train):
        raise ValueError(
            f"max_tasks={most} is out of range: expected 1 to {len(job.split.train)}, the tasks to train on."
        )
    kept = np.isin(np.array(histories["task"]), [task_json(task) for task in job.split.train[:most]])
    return histories.select(np.flatnonzero(kept))


def make_windows(job: Job, source: Path | str, length: int) -> HistoryWindows | StreamedHistoryWindows:
    """The windows to train on.

    Raises:
        ValueError: If there are too few histories to train on, or they are of another environment or of the test
            tasks.
    """
    training, environment = job.training, job.histories.environment
    histories = training_histories(job, source)
    selected = selection(job.windows)
    seed = training.seed if training.data_seed is None else training.data_seed
    if not job.histories.streaming:
        check_histories(histories.unique("environment"), histories.unique("task"), environment, job.split.test)
        windows = HistoryWindows(histories, length, seed=seed, **selected)
        batch = training.train_batch_size * training.world_size
        if training.dataloader_drop_last and len(windows) < batch:
            raise ValueError(
                f"There are only {len(windows)} windows to train on, and a batch has {batch}: give more histories, or "
                "lower --per_device_train_batch_size."
            )
        return windows
    if training.max_steps <= 0:
        raise ValueError("A stream has no end that epochs could be counted by: give --max_steps.")
    return StreamedHistoryWindows(
        histories,
        length,
        seed=seed,
        rank=training.process_index,
        world_size=training.world_size,
        environment=environment,
        held_out_tasks=job.split.test,
        **selected,
    )


def make_model(job: Job) -> tuple[AlgorithmDistillationModel, HistoryTokeniser]:
    """Build the model and its tokeniser for the job's environment, or load those to start from."""
    histories, arguments, recipe = job.histories, job.model, find_recipe(job.windows.recipe)
    # With the test tasks, so that they are not found to be wrong when the training is done.
    tasks = [*job.split.train[:1], *job.split.test]
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
        model.config.test_tasks = named_tests(job.split)
        if recipe.return_conditioned and arguments.target_return is not None:
            model.config.target_return = arguments.target_return
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
        test_tasks=named_tests(job.split),
    )
    return AlgorithmDistillationModel(config), tokeniser


def named_tests(split: TaskSplit) -> list[Task] | dict[str, list[Task]]:
    """The held-out tasks as a checkpoint's configuration names them."""
    return split.test if list(split.tests) == ["test"] else split.tests


def fit_to_histories(
    job: Job,
    source: Path | str,
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
    histories = training_histories(job, source)
    if isinstance(histories, datasets.IterableDataset):
        histories = first_histories(job, source, "train")
    if to_fit:
        tokeniser.fit(histories.with_format("numpy"))
    if to_ask:
        windows = job.windows
        model.config.target_return = expert_return(
            histories, windows.expert_share, windows.first_episode, windows.last_episode
        )


def prompt_quantile(job: Job) -> float | None:
    """How well the episodes do that the job's evaluations start contexts with, if they start them with any."""
    told = job.evaluation.prompt_quantile
    return find_recipe(job.windows.recipe).prompt_quantile if told is None else told


def prompt_settings(job: Job, source: Path | str) -> dict[str, Any]:
    """What the final evaluation is told of prompts.

    Raises:
        ValueError: If there is nothing that prompts could be taken from, or the quantile is out of its range.
    """
    quantile = prompt_quantile(job)
    if quantile is None:
        return {}
    histories = load(job, source, "test")
    if not isinstance(histories, datasets.Dataset):
        raise ValueError(
            "Prompts are taken from histories of the test tasks, which must be here: "
            + ("leave out --streaming." if job.histories.streaming else f"{source} has no split 'test'.")
        )
    for tasks in job.split.tests.values():
        # What is wrong with them is found now rather than when the training is done.
        streams = check_streams(len(tasks), job.evaluation.test_streams)
        draw_prompts(histories, tasks, quantile=quantile, steps=1, streams=streams)
    return {"prompt_from": histories, "prompt_quantile": quantile}


def make_trainer(
    job: Job,
    model: AlgorithmDistillationModel,
    tokeniser: HistoryTokeniser,
    windows: HistoryWindows | StreamedHistoryWindows,
    source: Path | str,
) -> AlgorithmDistillationTrainer:
    """The trainer, with tasks and histories to evaluate on during training: of the validation tasks if there are any,
    else of training tasks."""
    training, evaluation, prompts = job.training, None, None
    if training.eval_strategy != "no":
        histories = first_histories(job, source, "validation") or first_histories(job, source, "train")
        evaluation = histories and HistoryWindows(histories, windows.length, **selection(job.windows))
        if (quantile := prompt_quantile(job)) is not None:
            prompts = load(job, source, "validation" if job.split.validation else "train"), quantile
    return AlgorithmDistillationTrainer(
        model,
        training,
        processing_class=tokeniser,
        train_dataset=windows,
        eval_dataset=evaluation,
        eval_tasks=(job.split.validation or job.split.train)[:EVALUATION_TASKS],
        eval_prompts=prompts,
    )
