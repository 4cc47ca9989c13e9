"""Running the package's programs as a user does, on a preset that takes seconds."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml


ROOT = Path(__file__).parents[1]

TINY_PRESET = {
    "environment": "algodistill/DarkRoom-v0",
    "environment_kwargs": {"size": 3, "episode_length": 5},
    "split_seed": 1,
    "train_tasks": 5,
    "validation_tasks": 2,
    "source": "q_learning",
    "source_kwargs": {"initial_value": 10.5},
    "learners_per_task": 4,
    "episodes": 10,
    "episode_stride": 2,
    "start_share": 0.5,
    "decoder": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    "context_length": 12,
    "max_steps": 8,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "save_steps": 4,
    "eval_episodes": 2,
    "eval_streams": 4,
    "test_episodes": 3,
    "test_streams": 4,
}


def write_preset(folder: Path, name: str = "tiny", **settings: object) -> Path:
    """Write the tiny preset, changed as said."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**TINY_PRESET, **settings}))
    return path


def program_environment() -> dict[str, str]:
    """The environment that programs are run in: no Hub but the loopback one is reached, one thread each."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def run(
    command: list[str], folder: Path, timeout: float = 300, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, and return what it said."""
    environment = {**program_environment(), **(environment or {})}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def train(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the main job on the tiny preset that lies in a folder."""
    command = [sys.executable, str(ROOT / "train.py"), "--config", "tiny.yaml", *options]
    return run(command, folder, environment=environment)


def algodistill(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the console script."""
    return run([sys.executable, "-m", "algodistill.cli", *arguments], folder, environment=environment)
