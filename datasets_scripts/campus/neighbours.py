"""The neighbours of the main building on a canvas: car park, pond, track, courts, trees and the others."""

from __future__ import annotations

from functools import partial

import numpy as np

from pemoe.datasets_scripts.campus.drawing import Canvas, Colour, Upright, edges, ellipse, flat, rectangle, shaded
from pemoe.datasets_scripts.campus.scene import NEIGHBOUR_COLOURS, Neighbour

ASPHALT: Colour = (98, 98, 104)
WHITE: Colour = (240, 240, 236)
CAR_COLOURS: tuple[Colour, ...] = (
    (226, 226, 228),
    (188, 36, 36),
    (44, 74, 160),
    (32, 32, 36),
    (222, 190, 60),
    (150, 154, 160),
)


def draw_neighbour(canvas: Canvas, neighbour: Neighbour) -> list[Upright]:
    """Draw what lies flat on its ground and add its shadows; its cars, trees, goals or house are returned."""
    draw = {
        "car park": _car_park,
        "pond": _pond,
        "running track": _running_track,
        "football field": _football_field,
        "trees": _trees,
        "plaza": _plaza,
        "tennis courts": _tennis_courts,
        "swimming pool": _swimming_pool,
        "flower garden": _flower_garden,
        "annex": _annex,
    }
    return draw[neighbour.kind](canvas, neighbour) or []


def car(canvas: Canvas, x: float, y: float, along_y: bool, colour: Colour, name: str) -> Upright:
    """A car at (x, y), its length along y or along x; it belongs to the object `name`."""

    def draw() -> None:
        width, depth = (2.1, 4.6) if along_y else (4.6, 2.1)
        canvas.prism(rectangle(x, y, width, depth), 0.25, 1.0, colour, name)
        canvas.prism(rectangle(x, y, width * 0.8, depth * 0.58), 1.0, 1.6, (48, 56, 68), name)
        canvas.plan(rectangle(x, y, width * 0.72, depth * 0.4), colour, name, 1.62)

    return x, y, draw


def _box(neighbour: Neighbour, margin_m: float = 0.0) -> np.ndarray:
    width, depth = neighbour.width_m - 2 * margin_m, neighbour.depth_m - 2 * margin_m
    return rectangle(neighbour.x_m, neighbour.y_m, width, depth)


def _local(neighbour: Neighbour, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) with the long axis first -> plan metres; a neighbour deeper than wide is laid along y."""
    swapped = points[..., ::-1] if neighbour.depth_m > neighbour.width_m else points
    return swapped + np.array([neighbour.x_m, neighbour.y_m])


def _draw_lines(canvas: Canvas, neighbour: Neighbour, polylines: list, colour: Colour = WHITE) -> None:
    for polyline in polylines:
        canvas.lines(flat(_local(neighbour, np.array(polyline, dtype=float)))[None], colour, 2)


def _fill(canvas: Canvas, neighbour: Neighbour, points: np.ndarray, colour: Colour, z_m: float = 0.0) -> None:
    canvas.plan(_local(neighbour, points), colour, neighbour.name, z_m)


def _car_park(canvas: Canvas, neighbour: Neighbour) -> list[Upright]:
    canvas.plan(_box(neighbour), ASPHALT, neighbour.name)
    long_m, short_m = neighbour.sides_m
    columns = np.arange(-long_m / 2 + 2.6, long_m / 2 - 1.8, 3.1)
    rows = np.array([-short_m / 2 + 3.4, -2.8, 2.8, short_m / 2 - 3.4])
    bays = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)  # centres (K, 2)
    _draw_lines(canvas, neighbour, [[(x - 1.55, y - 2.7), (x - 1.55, y + 2.7)] for x, y in bays], (214, 214, 208))
    rng = np.random.default_rng(neighbour.layout_seed)
    taken = _local(neighbour, rng.permutation(bays)[: neighbour.count])
    colours = rng.integers(len(CAR_COLOURS), size=len(taken))
    along_y = neighbour.depth_m <= neighbour.width_m
    return [
        car(canvas, x, y, along_y, CAR_COLOURS[colour], neighbour.name)
        for (x, y), colour in zip(taken, colours, strict=True)
    ]


def _pond(canvas: Canvas, neighbour: Neighbour) -> None:
    rng = np.random.default_rng(neighbour.layout_seed)
    angle = 2 * np.pi * np.arange(36) / 36
    wave = 1 + 0.1 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.07 * np.sin(3 * angle + rng.uniform(0, 6))
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * wave[:, None] / 1.17
    half = np.array([neighbour.width_m, neighbour.depth_m]) / 2
    centre = np.array([neighbour.x_m, neighbour.y_m])
    for share, colour in ((1.0, (196, 182, 140)), (0.93, (52, 112, 160)), (0.6, (66, 130, 178))):
        canvas.plan(centre + outline * half * share, colour, neighbour.name)


def _running_track(canvas: Canvas, neighbour: Neighbour) -> None:
    long_m, short_m = neighbour.sides_m
    for inset, colour in ((0.0, (186, 74, 50)), (8.0, (92, 160, 66))):
        _fill(canvas, neighbour, _stadium(long_m, short_m, inset), colour)
    for inset in (0.4, 2.6, 4.9, 7.6):
        ring = _stadium(long_m, short_m, inset)
        _draw_lines(canvas, neighbour, [np.concatenate([ring, ring[:1]])], (244, 226, 216))


def _stadium(long_m: float, short_m: float, inset_m: float) -> np.ndarray:
    radius, half = short_m / 2 - inset_m, (long_m - short_m) / 2
    right = np.linspace(-np.pi / 2, np.pi / 2, 12)
    angle, middle = np.concatenate([right, right + np.pi]), np.repeat([half, -half], 12)
    return np.stack([middle + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _football_field(canvas: Canvas, neighbour: Neighbour) -> list[Upright]:
    long_m, short_m = neighbour.sides_m
    canvas.plan(_box(neighbour), (58, 138, 52), neighbour.name)
    edges = np.linspace(-long_m / 2, long_m / 2, 9)
    for low, high in zip(edges[:-1:2], edges[1::2], strict=True):
        _fill(canvas, neighbour, rectangle((low + high) / 2, 0, high - low, short_m), (84, 164, 66))
    a, b = long_m / 2 - 1.5, short_m / 2 - 1.5
    lines = [[(-a, -b), (a, -b), (a, b), (-a, b), (-a, -b)], [(0, -b), (0, b)], ellipse(0, 0, 4.5, 4.5)]
    lines += [[(s * a, -6), (s * (a - 7), -6), (s * (a - 7), 6), (s * a, 6)] for s in (-1, 1)]
    _draw_lines(canvas, neighbour, lines)
    goals = []
    for end in (-a, a):
        feet = _local(neighbour, np.array([(end, -3.6), (end, 3.6)]))
        frame = np.array([[*feet[0], 0], [*feet[0], 2.6], [*feet[1], 2.6], [*feet[1], 0]])
        goals.append((*feet.mean(axis=0), partial(canvas.lines, frame[None], (255, 255, 255), 2)))
    return goals


def _trees(canvas: Canvas, neighbour: Neighbour) -> list[Upright]:
    trees = _tree_positions(neighbour)
    for x, y, radius in trees:
        canvas.plan(ellipse(x, y, radius * 0.5, radius * 0.5, 8), (88, 104, 52))
        canvas.cast_shadow(ellipse(x, y, radius * 0.8, radius * 0.8, 7), 4.5)
    return [(x, y, partial(_tree, canvas, np.array([x, y, 0.0]), radius, neighbour.name)) for x, y, radius in trees]


def _tree_positions(neighbour: Neighbour) -> np.ndarray:
    """The `count` trees of a group: (count, 3) rows of x, y and crown radius in metres."""
    rng = np.random.default_rng(neighbour.layout_seed)
    candidates = rng.uniform(-0.5, 0.5, size=(200, 2)) * [neighbour.width_m - 4, neighbour.depth_m - 4]
    kept: list[np.ndarray] = []
    for limit_m in (5.0, 3.5, 2.0):
        for point in candidates:
            if len(kept) < neighbour.count and (np.hypot(*(np.array(kept).reshape(-1, 2) - point).T) > limit_m).all():
                kept.append(point)
    points = np.array(kept) + np.array([neighbour.x_m, neighbour.y_m])
    return np.concatenate([points, rng.uniform(2.5, 3.7, size=(len(kept), 1))], axis=1)  # (count, 3)


def _tree(canvas: Canvas, foot: np.ndarray, radius: float, name: str) -> None:
    side = canvas.camera.axes[:, 0] * 0.4
    top = np.array([0, 0, 4.0])
    canvas.polygon(np.array([foot - side, foot + side, foot + side + top, foot - side + top]), (92, 66, 42))
    crown = foot + np.array([0, 0, 3.4 + radius])
    light = -canvas.camera.axes[:, 0] * 0.25 * radius + np.array([0, 0, 0.25 * radius])
    for share, shift, colour in ((1.0, 0.0, (26, 74, 34)), (0.78, 0.8, (40, 98, 44)), (0.42, 1.7, (72, 134, 60))):
        canvas.ball(crown + light * shift, radius * share, colour, name)


def _plaza(canvas: Canvas, neighbour: Neighbour) -> None:
    canvas.plan(_box(neighbour), (216, 196, 170), neighbour.name)
    w, d = neighbour.width_m / 2, neighbour.depth_m / 2
    for t in np.linspace(-1, 1, 9):
        lines = np.array([[(t * w, -d), (t * w, d)], [(-w, t * d), (w, t * d)]])
        lines += np.array([neighbour.x_m, neighbour.y_m])
        canvas.lines(flat(lines), (178, 152, 124))
    for radius, colour in ((8.0, (168, 120, 96)), (6.0, (228, 212, 190)), (3.0, (168, 120, 96))):
        canvas.plan(ellipse(neighbour.x_m, neighbour.y_m, radius, radius), colour, neighbour.name)


def _tennis_courts(canvas: Canvas, neighbour: Neighbour) -> None:
    long_m, short_m = neighbour.sides_m
    pitch = long_m / 3.0 if long_m > short_m + 0.1 else short_m / 3.0
    colour = NEIGHBOUR_COLOURS[neighbour.kind][neighbour.colour]
    for i in range(neighbour.count):
        x = (i - (neighbour.count - 1) / 2) * pitch
        w, d = pitch / 2 - 1.7, short_m / 2 - 3.0
        inner = rectangle(x, 0, 2 * w, 2 * d)
        _fill(canvas, neighbour, rectangle(x, 0, pitch - 0.8, short_m), shaded(colour, 0.7))
        _fill(canvas, neighbour, inner, colour)
        lines = [[*inner, inner[0]], [(x - w, 0), (x + w, 0)], [(x, -d / 2), (x, d / 2)]]
        lines += [[(x - w, s * d / 2), (x + w, s * d / 2)] for s in (-1, 1)]
        _draw_lines(canvas, neighbour, lines)


def _swimming_pool(canvas: Canvas, neighbour: Neighbour) -> None:
    canvas.plan(_box(neighbour), (226, 222, 212), neighbour.name)
    long_m, short_m = neighbour.sides_m
    a, b = long_m / 2 - 5, short_m / 2 - 5
    _fill(canvas, neighbour, rectangle(0, 0, 2 * a, 2 * b), (40, 200, 226))
    _draw_lines(canvas, neighbour, [[(-a, y), (a, y)] for y in np.linspace(-b, b, 6)[1:-1]], (224, 250, 252))


def _flower_garden(canvas: Canvas, neighbour: Neighbour) -> None:
    canvas.plan(_box(neighbour), (112, 168, 78), neighbour.name)
    long_m, short_m = neighbour.sides_m
    colours = ((232, 84, 140), (250, 214, 60), (156, 84, 190), (236, 96, 60), (250, 240, 246))
    for i, x in enumerate(np.linspace(-long_m / 2 + 3.5, long_m / 2 - 3.5, 7)):
        _fill(canvas, neighbour, rectangle(x, 0, long_m / 7 * 0.6, short_m - 4), colours[i % 5], z_m=0.4)


def _annex(canvas: Canvas, neighbour: Neighbour) -> list[Upright]:
    """A house without ground of its own."""
    ring = _box(neighbour, 5.0)
    canvas.cast_shadow(ring, 6.0)
    return [(neighbour.x_m, neighbour.y_m, partial(_house, canvas, neighbour, ring))]


def _house(canvas: Canvas, neighbour: Neighbour, ring: np.ndarray) -> None:
    canvas.prism(ring, 0.0, 6.0, (232, 220, 196), neighbour.name)
    for start, end in edges(ring):
        length_m = np.hypot(*(end - start))
        edge = (end - start) / length_m
        if canvas.camera.sees(np.array([*start, 0.0]), np.array([edge[1], -edge[0], 0.0])):
            feet = start + np.arange(2.0, length_m - 2.5, 4.0)[:, None] * edge  # (K, 2)
            sill, head = flat(feet, 1.6), flat(feet, 3.8)
            far = np.array([*(edge * 2.0), 0.0])
            canvas.polygons(np.stack([sill, sill + far, head + far, head], axis=1), (70, 80, 96))
    canvas.prism(ring, 5.2, 6.2, NEIGHBOUR_COLOURS[neighbour.kind][neighbour.colour], neighbour.name)
