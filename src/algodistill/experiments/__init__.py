"""Experiments: several runs side by side, one figure, one command."""

from .describing import Curve, Experiment, Panel, experiment_titles, find_experiment, read_experiment
from .figures import plot_experiment
from .running import rounded, run_experiment


__all__ = [
    "Curve",
    "Experiment",
    "Panel",
    "experiment_titles",
    "find_experiment",
    "plot_experiment",
    "read_experiment",
    "rounded",
    "run_experiment",
]
