"""Learning histories: their schema, collecting and writing them, and reading windows out of them."""

from .collecting import collect_histories
from .collection import Collection
from .schema import config_name
from .streaming import StreamedHistoryWindows
from .windows import HistoryWindows
from .writing import HistoryRecorder, HistoryWriter


__all__ = [
    "Collection",
    "HistoryRecorder",
    "HistoryWindows",
    "HistoryWriter",
    "StreamedHistoryWindows",
    "collect_histories",
    "config_name",
]
