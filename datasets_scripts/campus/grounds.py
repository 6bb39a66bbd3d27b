"""What surrounds the main building on a canvas: neighbours, roads, paths, street furniture, shadows."""

from __future__ import annotations

from functools import partial

import numpy as np

from pemoe.datasets_scripts.campus.drawing import Canvas, Colour, Upright, ellipse, flat, rectangle
from pemoe.datasets_scripts.campus.neighbours import ASPHALT, CAR_COLOURS, car, draw_neighbour
from pemoe.datasets_scripts.campus.scene import COMPASS, EXTENT_M, ROAD_OFFSET_M, ROAD_WIDTH_M, Road, Scene, turned

PAVEMENT: Colour = (190, 188, 180)
PATH: Colour = (204, 198, 186)


def draw_grounds(canvas: Canvas, scene: Scene) -> list[Upright]:
    """Draw everything that lies on the ground, and all shadows; what is upright around the building is returned."""
    yaw, half_m = scene.building.yaw_deg, scene.building.depth_m / 2
    canvas.plan(turned(rectangle(0, 0, 5.0, 132.0), yaw), PATH)  # through both entrances
    for y in (-(half_m + 2.5), half_m + 2.5):
        canvas.plan(turned(rectangle(0, y, 26.0, 6.0), yaw), PATH)
    items = [item for road in scene.roads for item in _draw_road(canvas, road)]
    items += [item for neighbour in scene.neighbours for item in draw_neighbour(canvas, neighbour)]
    canvas.cast_shadow(scene.building.footprint_rings()[0], scene.building.height_m)
    canvas.lay_shadows()
    return items + _details(canvas, scene)


def _road_centre(road: Road, along_m: np.ndarray) -> np.ndarray:
    """Centre line (N, 2) in the plan; a curved road bends away from the building at both ends."""
    bend = 27.0 * (along_m / (EXTENT_M / 2)) ** 2 - 3.0 if road.shape == "curved" else 0.0
    east, north = COMPASS[road.side]
    out = ROAD_OFFSET_M + bend + np.zeros_like(along_m)
    return np.stack([east * out + north * along_m, north * out + east * along_m], axis=1)


def _draw_road(canvas: Canvas, road: Road) -> list[Upright]:
    """Draw a road; two cars are returned."""
    along = np.linspace(-150, 150, 61)
    centre, name = _road_centre(road, along), road.name
    step = np.gradient(centre, axis=0)
    across = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.hypot(*step.T)[:, None]  # (61, 2)
    for half, colour in ((ROAD_WIDTH_M / 2 + 1.6, PAVEMENT), (ROAD_WIDTH_M / 2, ASPHALT)):
        band = np.concatenate([centre - half * across, (centre + half * across)[::-1]])
        canvas.plan(band, colour, name)
    dashes = np.stack([flat(centre[:-1:2]), flat(centre[1::2])], axis=1)
    canvas.lines(dashes, (244, 240, 210), 2)
    if road.shape == "roundabout":
        hub = np.array(COMPASS[road.side]) * (ROAD_OFFSET_M - 12.0)
        for radius, colour in ((17.0, PAVEMENT), (15.5, ASPHALT), (6.5, PAVEMENT), (5.5, (84, 150, 64))):
            canvas.plan(ellipse(*hub, radius, radius), colour, name)
    rng = np.random.default_rng(road.layout_seed)
    along_y = road.side in ("east", "west")
    cars = []
    for along_m in rng.uniform(10, 45, size=2) * [1, -1]:
        x, y = _road_centre(road, np.array([along_m]))[0]
        x, y = (x + 2.2 * np.sign(along_m), y) if along_y else (x, y + 2.2 * np.sign(along_m))
        cars.append(car(canvas, x, y, along_y, CAR_COLOURS[rng.integers(len(CAR_COLOURS))], name))
    return cars


def _details(canvas: Canvas, scene: Scene) -> list[Upright]:
    """Street furniture before both entrances."""
    draw = {
        "bench": _bench,
        "flag": _flag,
        "statue": _statue,
        "bicycle rack": _bicycle_rack,
        "lamp posts": _lamp_posts,
        "hedge": _hedge,
    }
    items: list[Upright] = []
    for turn in (0.0, 180.0):
        for x, detail in zip((-14.0, 14.0), scene.details, strict=True):
            middle = np.array([x, -(scene.building.depth_m / 2 + 9.0)])
            foot = turned(middle, scene.building.yaw_deg + turn)
            items.append((*foot, partial(draw[detail], canvas, np.array([*foot, 0.0]), scene.building.yaw_deg)))
    return items


def _block(canvas: Canvas, foot: np.ndarray, yaw: float, size: tuple, low: float, colour: Colour, name: str) -> None:
    width, depth, height = size
    ring = turned(rectangle(0, 0, width, depth), yaw) + foot[:2]
    canvas.prism(ring, low, low + height, colour, name)


def _bench(canvas: Canvas, foot: np.ndarray, yaw: float) -> None:
    _block(canvas, foot, yaw, (5.0, 0.3, 0.7), 0.0, (70, 44, 26), "bench")
    _block(canvas, foot, yaw, (6.4, 1.6, 0.35), 0.7, (156, 96, 50), "bench")
    back = turned(np.array([0.0, 0.8]), yaw)
    _block(canvas, foot + np.array([*back, 0.0]), yaw, (6.4, 0.25, 1.1), 1.05, (156, 96, 50), "bench")


def _flag(canvas: Canvas, foot: np.ndarray, yaw: float) -> None:
    _block(canvas, foot, yaw, (0.45, 0.45, 12.0), 0.0, (230, 230, 232), "flag")
    cloth = np.array([(0.2, 8.4), (5.2, 8.0), (5.2, 11.2), (0.2, 11.8)])
    side = canvas.camera.axes[:, 0] * [1, 1, 0]
    points = foot + cloth[:, :1] * side + cloth[:, 1:] * np.array([0.0, 0.0, 1.0])
    canvas.polygon(points, (214, 38, 44), "flag")
    canvas.polygon(points * 0.5 + np.roll(points, -1, axis=0) * 0.5, (250, 220, 70), "flag")


def _statue(canvas: Canvas, foot: np.ndarray, yaw: float) -> None:
    _block(canvas, foot, yaw, (3.0, 3.0, 2.2), 0.0, (196, 192, 184), "statue")
    _block(canvas, foot, yaw, (1.3, 1.0, 3.0), 2.2, (70, 104, 92), "statue")
    canvas.ball(foot + np.array([0, 0, 5.8]), 0.75, (70, 104, 92), "statue")


def _bicycle_rack(canvas: Canvas, foot: np.ndarray, yaw: float) -> None:
    across = turned(np.array([1.0, 0.0]), yaw)
    angle = np.linspace(0, 2 * np.pi, 13)
    for i in range(4):
        base = foot + np.array([*((i - 1.5) * 2.3 * across), 0.0])
        for wheel in (-0.55, 0.55):
            ring = np.stack([(wheel + 0.5 * np.cos(angle)), 0.55 + 0.5 * np.sin(angle)], axis=1)
            points = base + ring[:, :1] * [*across, 0.0] + ring[:, 1:] * np.array([0.0, 0.0, 1.0])
            canvas.lines(points[None], (24, 24, 28), 2)
        canvas.polygon(base + np.array([[*(-0.5 * across), 0.6], [*(0.5 * across), 0.6], [0, 0, 1.4]]), (206, 60, 40))
        _block(canvas, base, yaw, (1.8, 0.2, 0.3), 0.0, (120, 124, 130), "bicycle rack")


def _lamp_posts(canvas: Canvas, foot: np.ndarray, yaw: float) -> None:
    for along_m in (-5.0, 0.0, 5.0):
        base = foot + np.array([*turned(np.array([along_m, 0.0]), yaw), 0.0])
        _block(canvas, base, yaw, (0.35, 0.35, 5.6), 0.0, (40, 42, 46), "lamp posts")
        canvas.ball(base + np.array([0, 0, 5.9]), 0.7, (255, 240, 170), "lamp posts")


def _hedge(canvas: Canvas, foot: np.ndarray, yaw: float) -> None:
    _block(canvas, foot, yaw, (14.0, 1.8, 1.6), 0.0, (48, 112, 44), "hedge")
