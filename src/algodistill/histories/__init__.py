"""Learning histories: their schema, collecting and writing them, and reading windows out of them."""

from .collecting import Collection, collect_histories
from .windows import HistoryWindows, check_environment
from .writing import HistoryRecorder, HistoryWriter


__all__ = [
    "Collection",
    "HistoryRecorder",
    "HistoryWindows",
    "HistoryWriter",
    "check_environment",
    "collect_histories",
]
