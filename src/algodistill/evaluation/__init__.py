"""Evaluating a frozen model in its context: rollouts, references, curves."""

from .curves import named_episodes, plot_learning_curve, summary
from .evaluating import CURVE_FILE, RESULT_FILE, evaluate, load_checkpoint, write_result
from .rollouts import default_streams, rollout


__all__ = [
    "CURVE_FILE",
    "RESULT_FILE",
    "default_streams",
    "evaluate",
    "load_checkpoint",
    "named_episodes",
    "plot_learning_curve",
    "rollout",
    "summary",
    "write_result",
]
