"""Checking the settings of source algorithms."""

import math


def check_settings(**settings: tuple[float, float, float]) -> None:
    """Raise a `ValueError` that names a setting which is out of its range.

    Args:
        settings (`tuple[float, float, float]`): For each setting its value, and the lowest and the highest that it may
            have.
    """
    for name, (value, low, high) in settings.items():
        if not low <= value <= high or not math.isfinite(value):
            upper = f" to {high}" if math.isfinite(high) else " or more"
            raise ValueError(f"{name}={value} is out of range: expected {low}{upper}.")
