"""The error of a wrong recipe, argument or run directory."""

from __future__ import annotations

from pemoe.common.errors import InputError


class TrainingError(InputError):
    """Bad input to training."""
