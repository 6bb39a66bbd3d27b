"""Directions in captions: found, removed with their sentences, or masked."""

from pemoe.datasets_scripts.sanitize.captions import (
    MODES,
    Sanitized,
    SanitizeReport,
    is_direction_free,
    remove_directional_sentences,
    sanitize_caption,
    sanitize_rows,
)
from pemoe.datasets_scripts.sanitize.directions import Direction, find_directions
from pemoe.datasets_scripts.sanitize.masking import mask_directions

__all__ = [
    "MODES",
    "Direction",
    "SanitizeReport",
    "Sanitized",
    "find_directions",
    "is_direction_free",
    "mask_directions",
    "remove_directional_sentences",
    "sanitize_caption",
    "sanitize_rows",
]
