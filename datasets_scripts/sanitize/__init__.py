"""Directions in captions: found, removed with their sentences, or masked."""

from pemoe.datasets_scripts.sanitize.directions import Direction, find_directions, remove_directional_sentences
from pemoe.datasets_scripts.sanitize.masking import mask_directions
from pemoe.datasets_scripts.sanitize.rows import MODES, Sanitized, SanitizeReport, sanitize_caption, sanitize_rows

__all__ = [
    "MODES",
    "Direction",
    "SanitizeReport",
    "Sanitized",
    "find_directions",
    "mask_directions",
    "remove_directional_sentences",
    "sanitize_caption",
    "sanitize_rows",
]
