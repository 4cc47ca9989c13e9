"""Training: the Trainer, its arguments, collecting a preset's histories, and the main job."""

from .arguments import AlgorithmDistillationTrainingArguments
from .collecting import collect, load_histories
from .trainer import AlgorithmDistillationTrainer, WindowCollator


__all__ = [
    "AlgorithmDistillationTrainer",
    "AlgorithmDistillationTrainingArguments",
    "WindowCollator",
    "collect",
    "load_histories",
]
