"""Draws one scene for the three platforms: satellite (straight down), drone (oblique), ground (a façade).

Each drawing comes with the boxes of what is seen in it; `rng` varies light, zoom and place of the camera.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from pemoe.datasets_scripts.campus.building import draw_building
from pemoe.datasets_scripts.campus.drawing import SUPERSAMPLE, Canvas, Rendering, level, look_at, rectangle, top_down
from pemoe.datasets_scripts.campus.grounds import draw_grounds
from pemoe.datasets_scripts.campus.scene import EXTENT_M, Scene

FACADE_SIDES = ("front", "back", "left", "right")  # as seen from before the main entrance


def draw_satellite(scene: Scene, size_px: int, rng: np.random.Generator) -> Rendering:
    """The place from straight above, north up, `size_px` square."""
    offset = tuple(rng.uniform(-3, 3, size=2))
    canvas = Canvas(top_down(EXTENT_M * rng.uniform(0.96, 1.02), offset), size_px, _lawn(size_px, rng))
    _draw_place(canvas, scene, close=False)
    return canvas.finish(rng, haze=rng.uniform(0.0, 0.08))


def draw_drone(scene: Scene, heading_deg: float, size_px: int, rng: np.random.Generator) -> Rendering:
    """The place from the air, looking towards `heading_deg` (clockwise from north), 38 to 48 degrees down."""
    pitch, distance_m = np.deg2rad(rng.uniform(38, 48)), rng.uniform(136, 150)
    azimuth = np.deg2rad(heading_deg)
    back = -np.array([np.sin(azimuth) * np.cos(pitch), np.cos(azimuth) * np.cos(pitch), -np.sin(pitch)])
    target = np.array([*rng.uniform(-3, 3, size=2), scene.building.height_m * 0.3])
    canvas = Canvas(look_at(target + back * distance_m, target, focal=1.02), size_px, _lawn(size_px, rng))
    _draw_place(canvas, scene, close=False)
    return canvas.finish(rng, haze=rng.uniform(0.02, 0.12))


def draw_ground(scene: Scene, side: str, size_px: int, rng: np.random.Generator) -> Rendering:
    """One façade (of `FACADE_SIDES`) from street level; the camera stands 4.2 m high, so that no roof is ever seen."""
    turn = {"front": 0.0, "right": 90.0, "back": 180.0, "left": 270.0}[side]
    bearing = scene.building.yaw_deg - 90.0 + turn + rng.uniform(-9, 9)  # counter-clockwise from east
    outward = np.array([np.cos(np.deg2rad(bearing)), np.sin(np.deg2rad(bearing))])
    ring = scene.building.footprint_rings()[0]
    reach_m, half_m = float((ring @ outward).max()), float(np.abs(ring @ [-outward[1], outward[0]]).max())
    height_m, focal = scene.building.height_m, 0.8
    widest, nearest = focal * 2 * half_m / rng.uniform(0.66, 0.72), focal * 2 * half_m / 1.1
    distance_m = max(min(widest, focal * height_m / 0.24), nearest, focal * height_m / 0.58)
    position = np.array([*(outward * (reach_m + distance_m)), 4.2])
    centre = (0.5 + rng.uniform(-0.03, 0.03), 0.62 + 0.01 * scene.building.floors)
    canvas = Canvas(level(position, 270.0 - bearing, focal, centre), size_px, _sky(size_px, rng))
    canvas.plan(rectangle(0, 0, 4000.0, 4000.0), (106, 146, 78))
    _draw_place(canvas, scene, close=True)
    return canvas.finish(rng, haze=rng.uniform(0.0, 0.06))


def _draw_place(canvas: Canvas, scene: Scene, close: bool) -> None:
    """Ground first, then upright things from far to near; the building stands between those behind and before it."""
    items = [*draw_grounds(canvas, scene), (0.0, 0.0, lambda: draw_building(canvas, scene, close))]
    for _, _, draw in sorted(items, key=lambda item: -float(canvas.camera.depth_m(np.array([*item[:2], 0.0])))):
        draw()


def _lawn(size_px: int, rng: np.random.Generator) -> Image.Image:
    """Grass with soft patches: RGB of the drawing size."""
    patches = rng.normal(1.0, 0.05, size=(12, 12, 1)) * np.array([112.0, 150.0, 82.0])
    return _background(np.clip(patches, 0, 255), size_px, Image.Resampling.BILINEAR)


def _sky(size_px: int, rng: np.random.Generator) -> Image.Image:
    """A sky that pales towards the horizon, with soft clouds: RGB of the drawing size."""
    ramp = np.linspace(0, 1, 16)[:, None, None]
    colours = (1 - ramp) * np.array([96.0, 152.0, 218.0]) + ramp * np.array([206.0, 224.0, 240.0])  # (16, 1, 3)
    clouds = np.clip(rng.normal(-0.1, 0.35, size=(16, 5, 1)), 0, 0.5)
    return _background(colours * (1 - clouds) + 248.0 * clouds, size_px, Image.Resampling.BICUBIC)


def _background(colours: np.ndarray, size_px: int, resampling: Image.Resampling) -> Image.Image:
    side = size_px * SUPERSAMPLE
    return Image.fromarray(colours.astype(np.uint8)).resize((side, side), resampling)
