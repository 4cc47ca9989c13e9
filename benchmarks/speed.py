"""Speed of collecting, training and evaluating, beside what the machine itself can do.

    python benchmarks/speed.py [collecting] [sources] [training] [evaluation]

Everything by default. Give it the machine to itself: other work shows in the figures.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from algodistill import AlgorithmDistillationTrainer, AlgorithmDistillationTrainingArguments, HistoryWindows
from algodistill.environments import AdversarialBanditTasks, DarkRoomTasks, make_environments
from algodistill.evaluation import rollout
from algodistill.histories.collection import Collection, batches
from algodistill.histories.learners import run_learners
from algodistill.models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser
from algodistill.training import collect


ENVIRONMENT = "algodistill/DarkRoom-v0"
BANDIT = "algodistill/AdversarialBandit-v0"
# Environment, learners on each task, episodes and settings of each source: some seconds of work.
SOURCES = {
    "q_learning": (ENVIRONMENT, 64, 30, {}),
    "noise_distillation": (ENVIRONMENT, 64, 30, {}),
    "posterior_sampling": (ENVIRONMENT, 64, 30, {}),
    "a2c": (ENVIRONMENT, 4, 30, {"streams": 16}),
    "dqn": (ENVIRONMENT, 4, 30, {}),
    "ucb1": (BANDIT, 2, 1, {}),
    "thompson": (BANDIT, 2, 1, {}),
}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_machine() -> None:
    """The rates that bound everything else: float32 matrix products, and copying memory."""
    size = 2048
    left, right = torch.randn(size, size), torch.randn(size, size)
    source = torch.randn(64 * 2**20)
    target = torch.empty_like(source)
    left @ right
    target.copy_(source)
    repeats = 10
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    matmul = repeats * 2 * size**3 / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(repeats):
        target.copy_(source)
    copied = repeats * 2 * source.nbytes / (time.perf_counter() - start)
    print(f"machine     {CORES} cores, {platform.processor() or platform.machine()}, torch {torch.__version__}")
    print(f"            {matmul / 1e9:,.0f} GFLOP/s float32 matrix product, {copied / 1e9:,.1f} GB/s memory copy")


def measure_collecting(folder: Path, learners_per_task: int) -> None:
    """From the command to the dataset on disk, one process."""
    start = time.perf_counter()
    collect("dark_room", folder, options=["--learners_per_task", str(learners_per_task)], progress=False)
    seconds = time.perf_counter() - start
    histories = datasets.load_dataset(str(folder), streaming=True)
    rows = sum(1 for split in histories.values() for _ in split.select_columns(["id"]))
    episodes = len(next(iter(histories["train"]))["episode_lengths"])
    transitions = rows * episodes * 20
    megabytes = sum(file.stat().st_size for file in folder.rglob("*.parquet")) / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"collecting  {transitions / seconds:,.0f} transitions/s: {transitions:,} in {seconds:.1f} s, "
        f"{megabytes:,.0f} MB on disk, {memory:.2f} GB of memory at most (torch included)"
    )


def measure_sources() -> None:
    """Each source as it is collected, but for the writing: learners, their environments, and the recording."""
    tasks = {
        ENVIRONMENT: DarkRoomTasks().tasks(),
        BANDIT: AdversarialBanditTasks().sample(10_000, np.random.default_rng(0)),
    }
    for source, (environment, learners_per_task, episodes, settings) in SOURCES.items():
        collection = Collection(
            environment, source, {"train": tasks[environment]}, learners_per_task, episodes, source_kwargs=settings
        )
        batch, bar = batches(collection)[0], tqdm(disable=True)
        run_learners(replace(collection, episodes=1), batch, bar)
        start = time.perf_counter()
        histories = run_learners(collection, batch, bar)
        seconds = time.perf_counter() - start
        steps = sum(map(len, histories["actions"]))
        print(
            f"sources     {steps / seconds:,.0f} environment steps/s: {source} in {len(batch.tasks):,} environments "
            f"of {environment.split('/')[1]}, {torch.get_num_threads()} threads"
        )


def measure_training(folder: Path, steps: int) -> None:
    """The default preset's model and batch through the Trainer, after a few steps to warm up."""
    collect("dark_room", folder, options=["--learners_per_task", "2"], progress=False)
    datasets.disable_progress_bars()
    windows = HistoryWindows(datasets.load_dataset(str(folder), split="train"), 500, episode_stride=8, start_share=0.5)
    model, tokeniser = default_model()
    times: list[float] = []

    class Clock(AlgorithmDistillationTrainer):
        def training_step(self, *args, **kwargs):
            times.append(time.perf_counter())
            return super().training_step(*args, **kwargs)

    arguments = AlgorithmDistillationTrainingArguments(
        str(folder / "run"), max_steps=steps, per_device_train_batch_size=12, report_to="none", disable_tqdm=True
    )
    arguments.logging_strategy = arguments.save_strategy = "no"
    Clock(model, arguments, processing_class=tokeniser, train_dataset=windows).train()
    warm_up = min(10, steps // 2)
    seconds = times[-1] - times[warm_up]
    transitions = (len(times) - 1 - warm_up) * 12 * 500
    print(
        f"training    {transitions / seconds:,.0f} transitions/s: 12 windows of 500 a step, "
        f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, {torch.get_num_threads()} threads"
    )


def measure_evaluation(steps: int) -> None:
    """64 streams, context 500: while the context grows, and past its roll-over."""
    model, tokeniser = default_model()
    tasks = DarkRoomTasks().tasks()[:16]
    rollout(model, tokeniser, ENVIRONMENT, tasks, episodes=1, streams=64)
    envs = make_environments(ENVIRONMENT, tasks * 4)
    agent = model.agent(tokeniser, 64)
    observations, _ = envs.reset(seed=0)
    marks = [time.perf_counter()]
    for step in range(500 + steps):
        actions = agent.act(observations)
        observations, rewards, terminations, truncations, _ = envs.step(actions)
        agent.observe(rewards, terminations, truncations)
        if step + 1 in (500, 500 + steps):
            marks.append(time.perf_counter())
    growing, rolling = np.diff(marks)
    print(
        f"evaluation  {64 * steps / rolling:,.0f} environment steps/s past the roll-over, "
        f"{64 * 500 / growing:,.0f} before it: 64 streams, context 500, {torch.get_num_threads()} threads"
    )


def default_model() -> tuple[AlgorithmDistillationModel, HistoryTokeniser]:
    """The default preset's model, untrained."""
    envs = make_environments(ENVIRONMENT, [{"goal": [0, 0]}])
    tokeniser = HistoryTokeniser(envs.single_observation_space, envs.single_action_space)
    config = AlgorithmDistillationConfig(
        observation_sizes=tokeniser.observation_sizes, action_sizes=tokeniser.action_sizes, environment=ENVIRONMENT
    )
    return AlgorithmDistillationModel(config), tokeniser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="collecting, sources, training, evaluation (default: all)")
    parser.add_argument("--learners_per_task", type=int, default=160, help="learners to collect (default: 160)")
    parser.add_argument("--steps", type=int, default=100, help="training steps (default: 100)")
    arguments = parser.parse_args()
    what = arguments.what or ["collecting", "sources", "training", "evaluation"]
    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as scratch:
        datasets.config.HF_DATASETS_CACHE = Path(scratch) / "cache"
        # First, so that the peak of memory is its own.
        if "collecting" in what:
            measure_collecting(Path(scratch) / "collecting", arguments.learners_per_task)
        measure_machine()
        if "sources" in what:
            measure_sources()
        if "training" in what:
            measure_training(Path(scratch) / "training", arguments.steps)
        if "evaluation" in what:
            measure_evaluation(1000)


if __name__ == "__main__":
    main()
