"""The main building on a canvas: walls with windows and entrances, the roof and what stands on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pemoe.datasets_scripts.campus.drawing import Canvas, Colour, edges, ellipse, flat, rectangle, shaded, sunlight
from pemoe.datasets_scripts.campus.scene import FACADES, FLOOR_HEIGHT_M, ROOF_COLOURS, Building, Scene, turned

WINDOW_COLOUR: Colour = (46, 60, 82)
WINDOW_ON_GLASS: Colour = (34, 84, 128)
WINDOW_GRID = {"square": (2.1, 2.0, 4.2), "tall": (1.2, 3.0, 2.9), "arched": (2.0, 2.9, 4.2), "round": (2.4, 2.4, 4.4)}
ROOF_UNITS = {  # steps in x and y and the margin of their grid; their width and depth
    "solar panels": ((7.6, 5.4, 1.8), (6.0, 3.2)),
    "skylights": ((6.5, 8.0, 1.5), (3.6, 3.6)),
    "vents": ((9.0, 6.5, 2.0), (3.4, 2.8)),
}
UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class _Wall:
    """One wall from `start` to `end` (2,) in the plan; points on it are (u along, z up, out), all in metres."""

    start: np.ndarray
    end: np.ndarray

    @cached_property
    def length_m(self) -> float:
        return float(np.hypot(*(self.end - self.start)))

    @cached_property
    def along(self) -> np.ndarray:  # unit vector (3,) from start to end
        return np.array([*(self.end - self.start), 0.0]) / self.length_m

    @cached_property
    def normal(self) -> np.ndarray:  # unit vector (3,) out of the building
        x, y, _ = self.along
        return np.array([y, -x, 0.0])

    def points(self, u_m: np.ndarray, z_m: np.ndarray, out_m: float = 0.0) -> np.ndarray:
        """Points (..., 3) at `u_m` along the wall, height `z_m`, `out_m` before it."""
        u, z = np.broadcast_arrays(np.asarray(u_m, dtype=float), np.asarray(z_m, dtype=float))
        base = np.array([*self.start, 0.0]) + out_m * self.normal
        return base + u[..., None] * self.along + z[..., None] * UP  # (..., 3)

    def quad(self, u0: float, u1: float, z0: float, z1: float, out_m: float = 0.0) -> np.ndarray:
        """A rectangle (4, 3) on the wall."""
        return self.points([u0, u1, u1, u0], [z0, z0, z1, z1], out_m)


def draw_building(canvas: Canvas, scene: Scene, close: bool) -> None:
    """Draw the main building: walls from far to near, each with windows and its entrance, then the roof.

    All roofs have one height, so a roof drawn last hides exactly what it must. `close` adds the wall's texture.
    """
    building = scene.building
    walls = [_Wall(*edge) for ring in building.footprint_rings() for edge in edges(ring)]
    doors = [_door_wall(walls, building.yaw_deg - 90.0), _door_wall(walls, building.yaw_deg + 90.0)]
    seen = [wall for wall in walls if canvas.camera.sees(np.array([*wall.start, 0.0]), wall.normal)]
    for wall in sorted(seen, key=lambda w: -float(canvas.camera.depth_m(w.points(w.length_m / 2, 0.0)))):
        _draw_wall(canvas, wall, building, close)
        if any(wall is door for door in doors):
            _draw_entrance(canvas, wall, building)
    if canvas.camera.sees(np.array([0.0, 0.0, building.height_m]), UP):
        _draw_roof(canvas, building)


def _door_wall(walls: list[_Wall], direction_deg: float) -> _Wall:
    """The wall that faces `direction_deg` (counter-clockwise from east), most central first, then most outward."""
    direction = np.array([np.cos(np.deg2rad(direction_deg)), np.sin(np.deg2rad(direction_deg)), 0.0])

    def rank(wall: _Wall) -> tuple[float, float]:
        middle = wall.points(wall.length_m / 2, 0.0)
        return round(abs(float(middle @ np.cross(UP, direction))), 1), -float(middle @ direction)

    return min((wall for wall in walls if float(wall.normal @ direction) > 0.97), key=rank)


def _draw_wall(canvas: Canvas, wall: _Wall, building: Building, close: bool) -> None:
    light = sunlight(wall.normal)
    base = shaded(FACADES[building.facade], light)
    canvas.polygon(wall.quad(0, wall.length_m, 0, building.height_m), base, "building")
    _draw_texture(canvas, wall, building, base, close)
    pane = shaded(WINDOW_ON_GLASS if building.facade == "glass" else WINDOW_COLOUR, 0.7 + 0.4 * light)
    panes = _window_polygons(wall, building)
    if close and building.windows != "ribbon":
        centre = panes.mean(axis=1, keepdims=True)
        canvas.polygons(centre + (panes - centre) * 1.22, shaded(base, 1.18 if building.facade != "plaster" else 0.8))
    canvas.polygons(panes, pane)
    rim = wall.quad(0, wall.length_m, building.height_m - 0.7, building.height_m)
    canvas.polygon(rim, shaded(ROOF_COLOURS[building.roof_colour] if not close else base, 0.85 * light))


def _draw_texture(canvas: Canvas, wall: _Wall, building: Building, base: Colour, close: bool) -> None:
    """Courses of brick and stone, panels of concrete, mullions of glass; from afar only the floors' lines."""
    facade, height = building.facade, building.height_m
    tone = shaded(base, 1.22 if facade == "glass" else 0.86)

    def upright_lines(u: np.ndarray, low: float, high: float) -> None:
        canvas.lines(wall.points(u[:, None], [low, high]), tone)

    step_m = {"brick": 0.75, "sandstone": 1.5, "plaster": 99.0}.get(facade, FLOOR_HEIGHT_M)
    spacing = step_m if close else max(step_m, FLOOR_HEIGHT_M)
    z = np.arange(spacing, height, spacing)
    canvas.lines(wall.points([0.0, wall.length_m], z[:, None]), tone)
    if facade in ("glass", "concrete") and close:
        upright_lines(np.arange(0.0, wall.length_m, 1.8 if facade == "glass" else 6.0), 0.0, height)
    if facade == "sandstone" and close:
        for row, z_m in enumerate(np.arange(0, height - 1.5, 1.5)):
            upright_lines(np.arange(1.2 * (row % 2), wall.length_m, 2.4), z_m, z_m + 1.5)


def _window_polygons(wall: _Wall, building: Building) -> np.ndarray:
    """All panes of a wall as polygons (K, N, 3)."""
    sills = np.arange(building.floors) * FLOOR_HEIGHT_M + (1.1 if building.windows != "tall" else 0.7)
    if building.windows == "ribbon":
        return np.stack([wall.quad(0.5, wall.length_m - 0.5, z, z + 1.9) for z in sills])
    width, height, spacing = WINDOW_GRID[building.windows]
    count = max(1, int((wall.length_m - 0.8) / spacing))
    centres = wall.length_m * (np.arange(count) + 0.5) / count
    outline = rectangle(0, height / 2, width, height)  # (N, 2)
    if building.windows == "arched":
        outline = _arch(width, height)
    elif building.windows == "round":
        outline = ellipse(0, height / 2, width / 2, height / 2, points=12)
    u = centres[None, :, None] + outline[None, None, :, 0]  # (1, count, N)
    z = sills[:, None, None] + outline[None, None, :, 1]  # (floors, 1, N)
    return wall.points(u, z).reshape(-1, len(outline), 3)  # (floors, count, N, 3) -> (K, N, 3)


def _arch(width: float, height: float) -> np.ndarray:
    angle = np.linspace(0, np.pi, 7)
    bow = np.stack([width / 2 * np.cos(angle), height - width / 2 + width / 2 * np.sin(angle)], axis=1)
    return np.concatenate([[(-width / 2, 0), (width / 2, 0)], bow])


def _draw_entrance(canvas: Canvas, wall: _Wall, building: Building) -> None:
    """The entrance in the middle of its wall, up to 13 m wide, as seen from before the wall."""
    draw = {
        "columns": _draw_columns,
        "glass porch": _draw_porch,
        "stairs": _draw_stairs,
        "canopy": _draw_canopy,
        "archway": _draw_archway,
    }
    draw[building.entrance](canvas, wall, wall.length_m / 2, 4.6 if building.floors < 3 else 6.6)


def _draw_columns(canvas: Canvas, wall: _Wall, middle: float, height: float) -> None:
    canvas.polygon(wall.quad(middle - 6.5, middle + 6.5, 0, height), (92, 88, 84), "entrance")
    canvas.polygon(wall.quad(middle - 1.6, middle + 1.6, 0, height * 0.7, 0.1), (60, 40, 30), "entrance")
    for u in np.linspace(middle - 6, middle + 6, 6):
        canvas.polygon(wall.quad(u - 0.55, u + 0.55, 0, height, 1.5), (246, 244, 238), "entrance")
    gable = wall.points([middle - 7.4, middle + 7.4, middle], [height, height, height + 3.2], 1.5)
    canvas.polygon(gable, (236, 232, 224), "entrance")
    canvas.lines(gable[None, [0, 1, 2, 0]], (150, 146, 138))


def _draw_porch(canvas: Canvas, wall: _Wall, middle: float, height: float) -> None:
    canvas.prism(_before(wall, middle, 5, 4.0), 0.0, height, (150, 226, 232), "entrance")
    u, z = np.linspace(middle - 5, middle + 5, 6)[:, None], np.array([[height / 2], [height]])
    canvas.lines(wall.points(u, [0.0, height], 4.0), (240, 250, 250), 2)
    canvas.lines(wall.points([middle - 5, middle + 5], z, 4.0), (240, 250, 250), 2)
    canvas.polygon(wall.quad(middle - 1.4, middle + 1.4, 0, 2.7, 4.05), (30, 70, 84), "entrance")


def _before(wall: _Wall, middle: float, half: float, out_m: float) -> np.ndarray:
    """A rectangle (4, 2) of the plan along the wall, `out_m` deep."""
    ring = wall.points([middle - half, middle + half, middle + half, middle - half], 0.0)[:, :2]
    ring[:2] += out_m * wall.normal[:2]
    return ring


def _draw_stairs(canvas: Canvas, wall: _Wall, middle: float, height: float) -> None:
    canvas.polygon(wall.quad(middle - 2.4, middle + 2.4, 2.0, height), (64, 36, 24), "entrance")
    canvas.lines(wall.points([[middle, middle]], [[2.0, height]], 0.05), (20, 14, 10), 2)
    for step in range(5):
        half, low = 6.5 - 0.35 * step, 0.45 * step
        riser = wall.quad(middle - half, middle + half, low, low + 0.45, 3.6 - 0.7 * step)
        back = wall.points([middle + half, middle - half], low + 0.45)
        canvas.polygon(np.concatenate([riser[:1:-1], back]), (226, 222, 212), "entrance")
        canvas.polygon(riser, (158 + 6 * step, 154 + 6 * step, 146 + 6 * step), "entrance")


def _draw_canopy(canvas: Canvas, wall: _Wall, middle: float, height: float) -> None:
    top = height * 0.8
    canvas.polygon(wall.quad(middle - 4, middle + 4, 0, top), (196, 222, 226), "entrance")
    canvas.lines(wall.points([[middle, middle]], [[0.0, top]], 0.05), (50, 60, 66), 2)
    for u in (middle - 6.0, middle + 6.0):
        canvas.polygon(wall.quad(u - 0.25, u + 0.25, 0, top, 4.0), (40, 40, 44), "entrance")
    canvas.prism(_before(wall, middle, 7, 4.5), top, top + 0.9, (58, 56, 62), "entrance")


def _draw_archway(canvas: Canvas, wall: _Wall, middle: float, height: float) -> None:
    for width, colour in ((10.0, (232, 222, 200)), (7.4, (34, 28, 26))):
        outline = _arch(width, height + 1.4 - (10.0 - width) / 4)
        canvas.polygon(wall.points(middle + outline[:, 0], outline[:, 1], 0.1), colour, "entrance")
    canvas.polygon(wall.quad(middle - 1.5, middle + 1.5, 0, 2.8, 0.12), (226, 190, 110), "entrance")


def _draw_roof(canvas: Canvas, building: Building) -> None:
    """The flat roof with a paler rim inside, and its feature."""
    colour, height = ROOF_COLOURS[building.roof_colour], building.height_m
    rings = [np.concatenate([ring, ring[:1]]) for ring in building.footprint_rings()]
    canvas.plan(np.concatenate([*rings, rings[0][:1]]), colour, "building", z_m=height)  # a keyhole
    for ring in rings:
        canvas.lines(flat(ring, height)[None], shaded(colour, 0.72), 2)
    draw = {
        **dict.fromkeys(ROOF_UNITS, _draw_units),
        "dome": _draw_dome,
        "helipad": _draw_helipad,
        "roof garden": _draw_garden,
    }
    if building.roof_feature in draw:
        draw[building.roof_feature](canvas, building, height)


def _grid(part: tuple[float, float, float, float], step_x: float, step_y: float, margin: float) -> np.ndarray:
    """Centres (K, 2) of a grid inside a roof part, `margin` metres from its edges."""
    x, y, width, depth = part
    columns, rows = max(1, int((width - 2 * margin) / step_x)), max(1, int((depth - 2 * margin) / step_y))
    xs = x + (np.arange(columns) - (columns - 1) / 2) * step_x
    ys = y + (np.arange(rows) - (rows - 1) / 2) * step_y
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


def _draw_units(canvas: Canvas, building: Building, height: float) -> None:
    """Solar panels, skylights or vents in a grid."""
    kind = building.roof_feature
    steps, size = ROOF_UNITS[kind]
    for part in building.roof_parts()[: 2 if kind == "vents" else None]:
        for centre in _grid(part, *steps):
            ring = turned(rectangle(*centre, *size), building.yaw_deg)
            middle = ring.mean(axis=0)
            if kind == "solar panels":
                canvas.plan(ring, (24, 36, 96), "roof feature", height)
                canvas.lines(flat(ring[[0, 1, 2, 3, 0]], height)[None], (150, 170, 220))
            elif kind == "skylights":
                canvas.plan(ring, (60, 66, 74), "roof feature", height)
                canvas.plan(middle + (ring - middle) * 0.72, (168, 236, 250), "roof feature", height)
            else:
                canvas.plan(ring + np.array([1.2, 1.0]), (40, 42, 46), z_m=height)
                canvas.prism(ring, height, height + 2.0, (206, 208, 208), "roof feature")
                canvas.plan(ellipse(*middle, 1.0, 1.0, 10), (60, 62, 66), z_m=height + 2.0)


def _draw_dome(canvas: Canvas, building: Building, height: float) -> None:
    x, y, width, depth = building.roof_parts()[0]
    centre = turned(np.array([x, y]), building.yaw_deg)
    radius = min(width, depth) * 0.44
    for level in np.linspace(0.0, 1.0, 9):
        ring_radius = radius * np.sqrt(1 - level**2 * 0.98)
        middle = centre - np.array([0.3, 0.28]) * radius * level * 0.4
        tone, z_m = shaded((226, 196, 96), 0.62 + 0.5 * level), height + 0.9 * radius * level
        canvas.plan(ellipse(*middle, ring_radius, ring_radius), tone, "roof feature", z_m)


def _draw_helipad(canvas: Canvas, building: Building, height: float) -> None:
    x, y, width, depth = building.roof_parts()[0]
    radius = min(width, depth, 22.0) * 0.45
    for share, colour in ((1.0, (250, 214, 40)), (0.84, (70, 72, 78))):
        ring = turned(ellipse(x, y, radius * share, radius * share), building.yaw_deg)
        canvas.plan(ring, colour, "roof feature", z_m=height)
    for dx, dy, w, d in ((-0.3, 0, 0.16, 0.9), (0.3, 0, 0.16, 0.9), (0, 0, 0.6, 0.16)):
        bar = rectangle(x + dx * radius, y + dy * radius, w * radius, d * radius)
        canvas.plan(turned(bar, building.yaw_deg), (250, 250, 250), "roof feature", z_m=height)


def _draw_garden(canvas: Canvas, building: Building, height: float) -> None:
    for x, y, width, depth in building.roof_parts():
        ring = turned(rectangle(x, y, width - 6.0, depth - 6.0), building.yaw_deg)
        canvas.plan(ring, (96, 172, 62), "roof feature", z_m=height)
        for px, py in turned(_grid((x, y, width, depth), 6.0, 5.0, 3.6), building.yaw_deg):
            canvas.ball(np.array([px, py, height + 0.8]), 1.5, (34, 98, 38), "roof feature")
            canvas.ball(np.array([px - 0.3, py + 0.3, height + 1.2]), 0.8, (70, 140, 60), "roof feature")
