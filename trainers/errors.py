"""The error of a wrong recipe, argument or run directory."""

from __future__ import annotations


class TrainingError(ValueError):
    """Bad input to training, told in one line: what is wrong, where, and what to do."""
