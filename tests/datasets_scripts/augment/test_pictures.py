"""Invariant: augmented pictures are exact where they can be, have no empty corners, and depend on the visit alone."""

from __future__ import annotations

import multiprocessing
import re
import statistics

import numpy as np
import pytest
from moved import moved_box, moved_point
from PIL import Image

from pemoe.datasets_scripts.augment.pictures import AugmentationPlan, Geometry, SatelliteAugmentation, move_picture
from pemoe.datasets_scripts.schema import DataError

SIZES = ((64, 64), (65, 65), (96, 40), (33, 70), (1, 1), (2, 3))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def moved(image: Image.Image, *geometry) -> np.ndarray:
    return np.asarray(move_picture(image, Geometry(*geometry)))


def all_plans(augmentation: SatelliteAugmentation) -> list[AugmentationPlan]:
    return [augmentation.plan(epoch, index, geometric=True) for epoch in range(3) for index in range(40)]


@pytest.mark.parametrize("size", SIZES)
def test_flips_are_those_of_numpy(size):
    pixels = np.asarray(noise(*size))
    assert np.array_equal(moved(noise(*size), True), pixels[:, ::-1])
    assert np.array_equal(moved(noise(*size), False, True), pixels[::-1])
    assert np.array_equal(moved(noise(*size), True, True), pixels[::-1, ::-1])


@pytest.mark.parametrize("quarters", range(-4, 9))
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_quarter_turns_are_those_of_numpy_after_the_flips(quarters, flips):
    pixels = np.asarray(noise(48, 48))
    pixels = pixels[:, ::-1] if flips[0] else pixels
    pixels = pixels[::-1] if flips[1] else pixels
    assert np.array_equal(moved(noise(48, 48), *flips, 90.0 * quarters), np.rot90(pixels, quarters))


def test_a_quarter_turn_of_an_oblong_picture_is_stretched_to_its_size():
    image = noise(60, 24)
    turned = Image.fromarray(np.rot90(np.asarray(image)))
    stretched = np.asarray(turned.resize((60, 24), Image.Resampling.BILINEAR), dtype=int)
    assert np.abs(stretched - moved(image, False, False, 90.0)).max() <= 1
    assert np.array_equal(moved(image, False, False, 180.0), np.asarray(image)[::-1, ::-1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degrees", [0.5, 30, 45, 89.9, 135, 200, 300, 719.25])
def test_a_white_picture_stays_white_and_keeps_its_size(size, degrees):
    image = move_picture(Image.new("RGB", size, "white"), Geometry(True, False, degrees))
    assert image.size == size
    assert image.getcolors() == [(size[0] * size[1], (255, 255, 255))]


def spot(x: float, y: float, size: tuple[int, int]) -> Image.Image:
    """A black picture with a soft spot at (x, y), fractions."""
    columns, rows = (np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1]
    light = 255 * np.exp(-((columns[None] - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * 0.03**2))
    return Image.fromarray(np.repeat(light[..., None], 3, axis=2).astype(np.uint8))


def brightest(image: Image.Image) -> tuple[float, float]:
    """Centre of light, fractions."""
    light = np.asarray(image, dtype=float)[..., 0]
    rows, columns = np.indices(light.shape)
    x, y = ((columns + 0.5) * light).sum() / light.sum(), ((rows + 0.5) * light).sum() / light.sum()
    return x / light.shape[1], y / light.shape[0]


@pytest.mark.parametrize("size", [(160, 160), (200, 120)])
@pytest.mark.parametrize(
    "geometry", [Geometry(h, v, d) for h in (0, 1) for v in (0, 1) for d in (0, 37, 90, 201, 270)]
)
def test_points_move_as_pixels_do(size, geometry):
    seen = brightest(move_picture(spot(0.62, 0.3, size), geometry))
    assert seen == pytest.approx(moved_point(geometry, 0.62, 0.3), abs=0.006)


def test_turning_is_counter_clockwise_as_seen():
    assert moved_point(Geometry(rotation_deg=90), 1, 0.5) == (0.5, 0)
    assert moved_point(Geometry(True, False, 90), 1, 0.5) == (0.5, 1)
    assert Geometry(rotation_deg=-90).apply_vector(1, 0) == Geometry(rotation_deg=270).apply_vector(1, 0) == (0, 1)


@pytest.mark.parametrize("degrees", [0.0, 25.0, 90.0, 133.0, 180.0])
def test_boxes_hold_their_moved_corners_tightly(degrees):
    geometry, box = Geometry(True, False, degrees), [0.3, 0.6, 0.2, 0.1]
    corners = np.array([moved_point(geometry, 0.3 + i * 0.1, 0.6 + j * 0.05) for i in (-1, 1) for j in (-1, 1)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    assert moved_box(geometry, box) == pytest.approx([*(low + high) / 2, *(high - low)])


def test_identity_and_mirror():
    assert (
        Geometry().is_identity and Geometry(True, True, 180.0).is_identity and Geometry(rotation_deg=720).is_identity
    )
    assert not Geometry(True).is_identity and not Geometry(rotation_deg=1e-3).is_identity
    assert Geometry(True).is_mirrored and Geometry(False, True, 30).is_mirrored
    assert not Geometry(True, True).is_mirrored and not Geometry(rotation_deg=90).is_mirrored


def plan_in_process(task: tuple[int, int]) -> AugmentationPlan:
    return SatelliteAugmentation(seed=5).plan(*task, geometric=True)


def test_plans_are_the_same_in_another_process_and_order():
    tasks = [(epoch, index) for epoch in range(2) for index in range(8)]
    here = [plan_in_process(task) for task in reversed(tasks)][::-1]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(plan_in_process, tasks) == here
    assert len(set(here)) == len(here)
    assert here[0] != SatelliteAugmentation(seed=6).plan(0, 0, geometric=True)


def test_light_is_the_same_without_geometry():
    augmentation = SatelliteAugmentation(seed=2)
    for index in range(20):
        free, fixed = (augmentation.plan(1, index, geometric=geometric) for geometric in (True, False))
        assert (free.brightness, free.contrast) == (fixed.brightness, fixed.contrast)
        assert fixed.geometry == Geometry() and not free.geometry.is_identity


def test_draws_keep_to_the_options():
    plans = all_plans(SatelliteAugmentation(rotation="quarter"))
    assert {plan.geometry.rotation_deg for plan in plans} == {0, 90, 180, 270}
    for light in ([plan.brightness for plan in plans], [plan.contrast for plan in plans]):
        assert 0.8 <= min(light) < 0.83 and 1.17 < max(light) <= 1.2
    assert 0.3 < statistics.mean(plan.geometry.flip_horizontal for plan in plans) < 0.7
    assert 0.3 < statistics.mean(plan.geometry.flip_vertical for plan in plans) < 0.7
    angles = np.array([plan.geometry.rotation_deg for plan in all_plans(SatelliteAugmentation())])
    assert (np.histogram(angles, bins=4, range=(0, 360))[0] > 15).all()


def test_light_changes_as_planned_and_before_the_geometry():
    image = noise(40, 40)
    mean = np.asarray(image, dtype=float).mean()
    darker = SatelliteAugmentation.apply(image, AugmentationPlan(brightness=0.5))
    assert np.abs(np.asarray(darker, dtype=float) - np.asarray(image) * 0.5).max() <= 1
    flatter = SatelliteAugmentation.apply(image, AugmentationPlan(contrast=0.5))
    assert np.asarray(flatter, dtype=float).std() == pytest.approx(np.asarray(image, dtype=float).std() / 2, rel=0.05)
    assert np.asarray(flatter, dtype=float).mean() == pytest.approx(mean, abs=2)
    plan = AugmentationPlan(Geometry(rotation_deg=33.0), 0.9, 1.2)
    light_only = SatelliteAugmentation.apply(image, AugmentationPlan(Geometry(), 0.9, 1.2))
    assert SatelliteAugmentation.apply(image, plan) == move_picture(light_only, plan.geometry)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "LA"])
def test_every_mode_becomes_rgb_and_the_plan_of_nothing_changes_nothing(mode):
    image = noise(20, 16).convert(mode)
    same = SatelliteAugmentation.apply(image, AugmentationPlan())
    assert same.mode == "RGB" and np.array_equal(np.asarray(same), np.asarray(image.convert("RGB")))


def kept_share(degrees: float, side: int = 400) -> float:
    """Share of a picture that stays in view when it is turned in place, counted in pixels."""
    points = (np.indices((side, side)).reshape(2, -1) + 0.5) / side  # (2, N)
    geometry = Geometry(rotation_deg=degrees)
    x, y = moved_point(geometry, points[1], points[0])
    return float(((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).mean())


def test_turning_in_place_keeps_what_the_module_says():
    angles = np.arange(0.5, 90, 1.0)
    kept = np.array([kept_share(angle) for angle in angles])
    stretch = np.abs(np.cos(np.deg2rad(angles))) + np.abs(np.sin(np.deg2rad(angles)))
    assert kept == pytest.approx(2 / (1 + stretch), abs=0.003)
    assert (round(kept.mean(), 2), round(kept.min(), 2)) == (0.88, 0.83)
    assert (round((1 / stretch**2).mean(), 2), round((1 / stretch**2).min(), 2)) == (0.64, 0.50)


def test_a_seed_out_of_range_is_refused_in_one_line():
    with pytest.raises(DataError, match=re.escape("seed=-1 must be an integer from 0 on")) as caught:
        SatelliteAugmentation(seed=-1)
    assert "\n" not in str(caught.value)
