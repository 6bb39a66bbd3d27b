"""Random crops that lose little of a picture, seeded per visit; the encoder's own resizing makes them square again."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

_STREAM = 2  # keeps these draws apart from others seeded by (seed, draw, row)
_TRIES = 10

Box = tuple[int, int, int, int]  # left, top, right, bottom in px


class CropPlan(NamedTuple):
    """What decides a crop beside the picture's size; the first arguments of `random_crop` after the picture."""

    seed: int
    draw: int
    row: int


def random_crop(
    image: Image.Image,
    seed: int,
    draw: int,
    row: int,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """A crop of visit `draw` of row `row`, a pure function of (seed, draw, row) and the picture's size.

    The distribution is that of torchvision's `RandomResizedCrop`: a share of the area uniform in `scale` and a log of
    width / height uniform in that of `ratio`, anywhere in the picture; where ten such do not fit, the largest in the
    middle whose width / height is within `ratio`.

    Example:
        >>> random_crop(Image.new("RGB", (100, 100)), seed=0, draw=0, row=3).size == (100, 100)
        False
    """
    return image.crop(_draw_box(image.size, np.random.default_rng([seed, draw, row, _STREAM]), scale, ratio))


def _draw_box(size: tuple[int, int], rng: np.random.Generator, scale: tuple, ratio: tuple) -> Box:
    width, height = size
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(width - crop_width + 1))
            top = int(rng.integers(height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    return _middle_box(width, height, ratio)


def _middle_box(width: int, height: int, ratio: tuple[float, float]) -> Box:
    """The largest box in the middle whose width / height lies within `ratio`."""
    crop_width = max(1, min(width, round(height * ratio[1])))
    crop_height = max(1, min(height, round(width / ratio[0])))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height
