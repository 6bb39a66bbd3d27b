"""Invariant: text over the bottom of a picture is found, in one or in the average of many, and nowhere else."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from defect_tree import mark, stamp
from PIL import Image

from pemoe.datasets_scripts.audit.attribution import MIN_PLACES, OverlayWatch, find_text_band
from pemoe.datasets_scripts.audit.audit import audit_directory
from pemoe.datasets_scripts.campus.source import rows_for_place

PLACES = 40


@pytest.fixture(scope="module")
def frames() -> list[list[Image.Image]]:
    """Two drone frames of each place."""
    places = (rows_for_place("train", index, drone_views=2, ground_views=0)[1:] for index in range(PLACES))
    return [[Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows] for rows in places]


def bands_of(frames: list[list[Image.Image]]) -> dict:
    watch = OverlayWatch()
    for place, images in enumerate(frames):
        for image in images:
            watch.add("drone", f"{place:04d}", image)
    return watch.bands()


def test_a_line_of_text_is_found_where_it_is(frames: list[list[Image.Image]]) -> None:
    found = [find_text_band(stamp(images[0].copy())) for images in frames]
    hits = [band for band in found if band is not None]
    assert len(hits) >= 0.9 * PLACES  # white text on a white roof is lost
    assert all(band.top_px <= 151 and band.bottom_px >= 156 and band.top_px > 140 for band in hits)


def test_a_line_of_text_is_found_in_large_pictures(frames: list[list[Image.Image]]) -> None:
    large = [stamp(images[0].resize((512, 512))) for images in frames[:10]]
    assert sum(find_text_band(image) is not None for image in large) >= 9


def test_pictures_without_text_have_none(frames: list[list[Image.Image]]) -> None:
    assert [find_text_band(image) for images in frames for image in images] == [None] * (2 * PLACES)
    assert find_text_band(Image.new("RGB", (4, 4))) is None


def test_the_lines_of_a_car_park_are_no_text() -> None:
    image = Image.new("RGB", (512, 512), (110, 110, 115))
    for number in range(12):
        image.paste((240, 240, 240), (200 + 10 * number, 440, 202 + 10 * number, 458))
    assert find_text_band(image) is None


def test_large_pictures_are_looked_at_in_a_smaller_size() -> None:
    image = stamp(Image.new("RGB", (4000, 3000), (70, 110, 60)))
    band = find_text_band(image)
    assert band is not None and 2740 < band.top_px <= 2780 and 2800 <= band.bottom_px <= 2860
    watch = OverlayWatch()
    watch.add("drone", "6", image)
    assert watch.sums == {}  # memory stays small


def test_a_mark_too_small_to_read_shows_in_the_average(frames: list[list[Image.Image]]) -> None:
    ((key, band),) = bands_of([[mark(image.copy()) for image in images] for images in frames]).items()
    assert key == ("drone", 160, 160)
    assert band.top_px <= 151 < band.bottom_px
    assert band.bottom_px - band.top_px <= 6
    assert 60 <= band.left_px < band.right_px <= 100


def test_nothing_shows_in_the_average_of_clean_pictures(frames: list[list[Image.Image]]) -> None:
    assert bands_of(frames) == {}


def test_many_pictures_of_few_places_are_no_evidence(frames: list[list[Image.Image]]) -> None:
    assert bands_of([[mark(image.copy())] * 20 for image, _ in frames[: MIN_PLACES - 1]]) == {}


@pytest.mark.skipif("PEMOE_REAL_CAMPUS" not in os.environ, reason="PEMOE_REAL_CAMPUS names no directory")
def test_real_drone_frames_carry_an_attribution_too_small_to_read() -> None:
    found = audit_directory(Path(os.environ["PEMOE_REAL_CAMPUS"])).to_dict()["defects"]
    assert [example["detail"].split(" of ")[0] for example in found["fixed_overlay"]["examples"]] == ["drone pictures"]
    assert "burnt_in_attribution" not in found
