"""The error of a wrong recipe, argument or run directory, and the checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pemoe.common.errors import InputError


class TrainingError(InputError):
    """Bad input to training."""


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise TrainingError, naming the field, unless `value` is one of `allowed`."""
    if value not in allowed:
        raise TrainingError(f"{name}: {value!r} is unknown, use one of {', '.join(allowed)}")


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise TrainingError, naming the field, unless `value` is a finite number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TrainingError(f"{name}: {value!r} is no number")
    if not (math.isfinite(value) and low <= value <= high):
        bounds = f"from {low} to {high}" if math.isfinite(high) else f"of at least {low}"
        raise TrainingError(f"{name}: {value} is out of range, use a number {bounds}")
