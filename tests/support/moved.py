"""Where points and boxes of a picture are after it was moved."""

from __future__ import annotations

from pemoe.datasets_scripts.augment.pictures import Geometry


def moved_point(geometry: Geometry, x: float, y: float) -> tuple[float, float]:
    """Where a point is afterwards, in fractions of the picture (x right, y down, the middle at 0.5, 0.5)."""
    u, v = geometry.apply_vector(x - 0.5, y - 0.5)
    return u + 0.5, v + 0.5


def moved_box(geometry: Geometry, box: list[float]) -> list[float]:
    """The upright box around a box [cx, cy, w, h] (fractions) afterwards; it may reach out of the picture."""
    cx, cy, width, height = box
    columns = geometry.apply_vector(width, 0), geometry.apply_vector(0, height)
    return [*moved_point(geometry, cx, cy), *(sum(map(abs, sides)) for sides in zip(*columns, strict=True))]
