"""Schedules of the settings that change while source algorithms run."""

from typing import Any

import numpy as np


def linear(start: float, end: float, progress: Any) -> Any:
    """A number, or an array, that goes linearly from `start` to `end` as `progress` goes from 0 to 1, and stays there.

    Args:
        start (`float`): Value at the beginning.
        end (`float`): Value from a progress of 1 on.
        progress (`float` or `np.ndarray`): What share of the way has been gone, 0 or more.
    """
    return start + np.minimum(progress, 1) * (end - start)
