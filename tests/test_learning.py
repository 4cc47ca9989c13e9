"""That a model learns to learn: it improves within its context on goals it was never trained on, and why it does."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from algodistill import (
    AlgorithmDistillationTrainer,
    AlgorithmDistillationTrainingArguments,
    HistoryWindows,
    HistoryWriter,
)
from algodistill.environments import DarkRoomTasks, make_environments, split_tasks
from algodistill.evaluation import rollout
from algodistill.histories import Collection, collect_histories
from algodistill.models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser


ENVIRONMENT, ROOM = "algodistill/DarkRoom-v0", {"size": 5, "episode_length": 10}
EPISODES, STRIDE, CONTEXT = 60, 3, 150


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, datasets.Dataset]:
    """Histories of a small room, and the same episodes dealt out anew among the histories, whatever their task."""
    folder = tmp_path_factory.mktemp("histories")
    collection = Collection(
        environment=ENVIRONMENT,
        environment_kwargs=ROOM,
        source="q_learning",
        source_kwargs={"initial_value": 10.5},
        tasks={"train": SPLIT.train},
        learners_per_task=60,
        episodes=EPISODES,
    )
    collect_histories(collection, folder / "ordered", progress=False)
    ordered = datasets.load_dataset(str(folder / "ordered"), split="train")
    shuffle_episodes(ordered, folder / "shuffled")
    return {"ordered": ordered, "shuffled": datasets.load_dataset(str(folder / "shuffled"), split="train")}


SPLIT = split_tasks(DarkRoomTasks(**ROOM).tasks(), split_seed=0, train_tasks=20)


def shuffle_episodes(histories: datasets.Dataset, folder: Path) -> None:
    envs = make_environments(ENVIRONMENT, SPLIT.train[:1], **ROOM)
    rows = histories.with_format("numpy")[:]
    columns = ("observations", "actions", "rewards", "terminations", "truncations")
    order = np.random.default_rng(0).permutation(len(histories) * EPISODES)
    steps = {}
    for column in columns:
        values = np.stack(rows[column])
        by_episode = values.reshape(len(histories) * EPISODES, ROOM["episode_length"], *values.shape[2:])
        steps[column] = by_episode[order].reshape(-1, *values.shape[2:])
    spaces = envs.single_observation_space, envs.single_action_space
    with HistoryWriter(folder, *spaces, environment=ENVIRONMENT, algorithm="shuffled") as writer:
        writer.write(
            tasks=[json.loads(task) for task in histories["task"]],
            seeds=[0] * len(histories),
            lengths=[EPISODES * ROOM["episode_length"]] * len(histories),
            steps=steps,
        )


def learn(histories: datasets.Dataset, folder: Path) -> np.ndarray:
    """Train on histories; returns the mean return per in-context episode on the held-out goals."""
    envs = make_environments(ENVIRONMENT, SPLIT.train[:1], **ROOM)
    tokeniser = HistoryTokeniser(envs.single_observation_space, envs.single_action_space)
    torch.manual_seed(0)
    config = AlgorithmDistillationConfig(
        text_config={"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32},
        observation_sizes=tokeniser.observation_sizes,
        action_sizes=tokeniser.action_sizes,
        context_length=CONTEXT,
    )
    arguments = AlgorithmDistillationTrainingArguments(
        str(folder),
        max_steps=400,
        per_device_train_batch_size=32,
        learning_rate=0.003,
        warmup_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    model = AlgorithmDistillationModel(config)
    windows = HistoryWindows(histories, CONTEXT, episode_stride=STRIDE, start_share=0.5)
    AlgorithmDistillationTrainer(model, arguments, processing_class=tokeniser, train_dataset=windows).train()
    returns, _ = rollout(
        model, tokeniser, ENVIRONMENT, SPLIT.test, episodes=20, streams=200, environment_kwargs=ROOM, seed=0
    )
    return returns.mean(axis=(0, 1))


@pytest.mark.slow
def test_order_of_the_episodes_is_what_is_learnt_from(histories: dict[str, datasets.Dataset], tmp_path: Path) -> None:
    """Trained on histories, the model improves on held-out goals; trained on their episodes shuffled, it does not."""
    curves = {name: learn(dataset, tmp_path / name) for name, dataset in histories.items()}
    first = {name: curve[:2].mean() for name, curve in curves.items()}
    last = {name: curve[-5:].mean() for name, curve in curves.items()}
    print({name: curve.round(2).tolist() for name, curve in curves.items()})
    optimal = np.mean([DarkRoomTasks(**ROOM).optimal_return(task) for task in SPLIT.test])
    assert last["ordered"] > 0.6 * optimal
    assert last["ordered"] - first["ordered"] > 2.0
    assert last["shuffled"] - first["shuffled"] < 0.25 * (last["ordered"] - first["ordered"])
