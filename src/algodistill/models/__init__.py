"""The model, its configuration, its tokeniser and its agent: the files that travel with every checkpoint."""

from .agent_algodistill import AlgorithmDistillationAgent
from .configuration_algodistill import AlgorithmDistillationConfig
from .modeling_algodistill import AlgorithmDistillationModel, AlgorithmDistillationOutput
from .tokenisation_algodistill import HistoryTokeniser


__all__ = [
    "AlgorithmDistillationAgent",
    "AlgorithmDistillationConfig",
    "AlgorithmDistillationModel",
    "AlgorithmDistillationOutput",
    "HistoryTokeniser",
]
