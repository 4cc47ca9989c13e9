"""algodistill: Algorithm Distillation, learning to reinforcement-learn in a transformer's context window."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from .environments import DarkRoomEnv, DarkRoomVectorEnv, make_environments
from .evaluation import evaluate
from .histories import HistoryWindows, HistoryWriter, StreamedHistoryWindows
from .hub import publish
from .models import (
    AlgorithmDistillationAgent,
    AlgorithmDistillationConfig,
    AlgorithmDistillationModel,
    HistoryTokeniser,
)
from .training import AlgorithmDistillationTrainer, AlgorithmDistillationTrainingArguments, collect


__version__ = "0.1.0"

__all__ = [
    "AlgorithmDistillationAgent",
    "AlgorithmDistillationConfig",
    "AlgorithmDistillationModel",
    "AlgorithmDistillationTrainer",
    "AlgorithmDistillationTrainingArguments",
    "DarkRoomEnv",
    "DarkRoomVectorEnv",
    "HistoryTokeniser",
    "HistoryWindows",
    "HistoryWriter",
    "StreamedHistoryWindows",
    "collect",
    "evaluate",
    "make_environments",
    "publish",
]

# With these, the Auto classes find ours and never ask to run code from a repository.
AutoConfig.register("algodistill", AlgorithmDistillationConfig, exist_ok=True)
AutoModel.register(AlgorithmDistillationConfig, AlgorithmDistillationModel, exist_ok=True)
AutoFeatureExtractor.register(AlgorithmDistillationConfig, HistoryTokeniser, exist_ok=True)
AutoProcessor.register(AlgorithmDistillationConfig, HistoryTokeniser, exist_ok=True)
