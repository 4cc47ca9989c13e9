"""Evaluating a frozen model in its context: rollouts, references, curves."""

from .curves import named_episodes, plot_learning_curve, plot_source_curves, summary
from .evaluating import (
    CURVE_FILE,
    RESULT_FILE,
    evaluate,
    held_out_tasks,
    load_checkpoint,
    result_files,
    standard_error,
    write_result,
)
from .prompts import draw_prompts, make_prompts
from .rollouts import check_streams, default_streams, rollout


__all__ = [
    "CURVE_FILE",
    "RESULT_FILE",
    "check_streams",
    "default_streams",
    "draw_prompts",
    "evaluate",
    "held_out_tasks",
    "load_checkpoint",
    "make_prompts",
    "named_episodes",
    "plot_learning_curve",
    "plot_source_curves",
    "result_files",
    "rollout",
    "standard_error",
    "summary",
    "write_result",
]
