"""Text burnt into aerial pictures: a line of glyphs in one picture, or a mark at one spot in the average of many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops
from scipy import ndimage

STRIP = 0.2  # the lowest part of the picture is searched
MIN_GLYPHS = 7  # clean pictures reach 5, lines of 28 letters give 18 in the median
MIN_LUMA, MIN_CONTRAST = 180, 30  # of a glyph, and against its surroundings
MIN_PLACES = 24  # below, an average over places says too little
MIN_DEVIATIONS = 3.0  # standard errors
MIN_RUN = 0.04  # of the width: neighbouring columns that must all deviate
MAX_WIDTH_PX = 1024  # larger pictures are reduced; in them text can be read without an average
MAX_SIZES = 8  # different picture sizes watched at once

_Box = tuple[int, int, int, int]  # top, bottom, left, right


class Band(NamedTuple):
    """Where text lies in a picture, in pixels: rows `top_px` to `bottom_px`, columns `left_px` to `right_px`."""

    top_px: int
    bottom_px: int
    left_px: int
    right_px: int


def _glyph_boxes(strip: Image.Image) -> list[_Box]:
    """Bright connected patches as tall as letters."""
    red, green, blue = strip.split()
    darkest = np.asarray(ImageChops.darker(ImageChops.darker(red, green), blue))
    luma = np.asarray(strip.convert("L"), dtype=np.float32)
    bright = (darkest >= MIN_LUMA) & (luma - ndimage.uniform_filter(luma, 9) >= MIN_CONTRAST)
    labels, _ = ndimage.label(bright, np.ones((3, 3)))
    tallest = max(16, strip.height // 4)
    boxes = [(rows.start, rows.stop, cols.start, cols.stop) for rows, cols in ndimage.find_objects(labels)]
    return [box for box in boxes if 4 <= box[1] - box[0] <= tallest and box[3] - box[2] <= 2.5 * (box[1] - box[0])]


def _line_at(bottom: int, height: int, boxes: list[_Box]) -> list[_Box]:
    """The longest run of patches on a base line, of about one height, with gaps as between letters."""
    line = [box for box in boxes if abs(box[1] - bottom) <= 1 and 0.6 <= (box[1] - box[0]) / height <= 1.7]
    runs: list[list[_Box]] = []
    for box in sorted(line, key=lambda patch: patch[2]):
        if not runs or box[2] - runs[-1][-1][3] > 1.5 * height:
            runs.append([])
        runs[-1].append(box)
    return max(runs, key=len)


def _is_text(line: list[_Box]) -> bool:
    """Whether there are enough patches, of various shapes: the lines of a car park are all alike."""
    heights, widths = {box[1] - box[0] for box in line}, {box[3] - box[2] for box in line}
    return len(line) >= MIN_GLYPHS and len(heights) >= 2 and len(widths) >= 3


def find_text_band(image: Image.Image) -> Band | None:
    """Find a horizontal line of bright text in the lowest fifth of a picture.

    Letters are bright patches of like height on one base line with small gaps; cars, windows and roof edges seldom
    make seven such patches in a row. Pictures wider than `MAX_WIDTH_PX` are looked at in a smaller size. The band is
    that of the longest line of at least `MIN_GLYPHS` patches, widened by two pixels; None if there is none.

    Example:
        >>> find_text_band(Image.new("RGB", (160, 160), "green")) is None
        True
    """
    first = int(image.height * (1 - STRIP))
    factor = -(-image.width // MAX_WIDTH_PX)
    strip = image.crop((0, first, image.width, image.height)).convert("RGB").reduce(factor)
    boxes = _glyph_boxes(strip) if min(strip.size) >= 8 else []
    lines = (_line_at(bottom, height, boxes) for bottom, height in {(box[1], box[1] - box[0]) for box in boxes})
    line = max((line for line in lines if _is_text(line)), key=len, default=[])
    if not line:
        return None
    top, bottom = max(0, min(box[0] for box in line) - 2), max(box[1] for box in line) + 2
    left, right = max(0, line[0][2] - 2), line[-1][3] + 2
    edges = min(image.height, first + factor * bottom), factor * left, min(image.width, factor * right)
    return Band(first + factor * top, *edges)


def _longest_run(deviates: np.ndarray) -> tuple[int, int, int]:
    """(length, row, first column) of the longest horizontal run of true entries."""
    best = (0, 0, 0)
    for row, line in enumerate(deviates):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], line.view(np.int8), [0]))))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            best = max(best, (int(stop - start), row, int(start)))
    return best


def _grow(deviations: np.ndarray, row: int) -> tuple[int, int]:
    """The rows around `row` that deviate too, from the first to behind the last."""
    above, below = row, row + 1
    while above > 0 and deviations[above - 1] >= MIN_DEVIATIONS / 2:
        above -= 1
    while below < len(deviations) and deviations[below] >= MIN_DEVIATIONS / 2:
        below += 1
    return above, below


@dataclass
class _Sums:
    """Sums over places of one picture size; `place_*` gather the place that is being read."""

    total: np.ndarray
    squares: np.ndarray
    place_total: np.ndarray
    places: int = 0
    place_id: str | None = None
    place_images: int = 0

    def close_place(self) -> None:
        """Take the mean of the gathered place into the sums."""
        if self.place_images:
            mean = self.place_total / self.place_images
            self.total += mean
            self.squares += mean**2
            self.places += 1
            self.place_total[:] = 0
            self.place_images = 0


class OverlayWatch:
    """Finds what lies at one spot of the frame in most pictures, by averaging line contrast over places.

    The contrast of a pixel is its luma minus the mean of the pixels above and below. Over many places it averages to
    zero, unless something is drawn at a fixed spot. A place counts once, whatever its number of pictures, so that
    frames alike do not count as evidence. Memory is a few arrays of the strip for each of at most eight sizes.

    Example:
        >>> watch = OverlayWatch()
        >>> watch.add("drone", "0006", Image.new("RGB", (64, 64)))
        >>> watch.bands()
        {}
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, int, int], _Sums] = {}

    def add(self, platform: str, place_id: str, image: Image.Image) -> None:
        """Take in a picture; those of one place must follow each other."""
        key = (platform, image.width, image.height)
        first = int(image.height * (1 - STRIP))
        is_fit = image.height - first >= 8 and max(image.size) <= MAX_WIDTH_PX
        if key not in self.sums and (len(self.sums) >= MAX_SIZES or not is_fit):
            return
        luma = np.asarray(image.crop((0, first, image.width, image.height)).convert("L"), dtype=np.float64)
        contrast = luma[1:-1] - (luma[:-2] + luma[2:]) / 2
        sums = self.sums.setdefault(key, _Sums(*(np.zeros(contrast.shape) for _ in range(3))))
        if sums.place_id != place_id:
            sums.close_place()
            sums.place_id = place_id
        sums.place_total += contrast
        sums.place_images += 1

    def bands(self) -> dict[tuple[str, int, int], Band]:
        """The band of the fixed mark by (platform, width, height); sizes without one are absent."""
        found = {}
        for (platform, width, height), sums in self.sums.items():
            sums.close_place()
            if sums.places < MIN_PLACES:
                continue
            mean = sums.total / sums.places
            spread = np.sqrt(np.maximum(sums.squares / sums.places - mean**2, 1e-9) / sums.places)
            deviations = np.abs(mean / spread)
            length, row, column = _longest_run(deviations >= MIN_DEVIATIONS)
            if length >= max(6, MIN_RUN * width):
                above, below = _grow(deviations[:, column : column + length].mean(axis=1), row)
                first = int(height * (1 - STRIP)) + 1
                found[platform, width, height] = Band(first + above, first + below, column, column + length)
        return found
