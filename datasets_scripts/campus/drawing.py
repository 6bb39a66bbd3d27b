"""Cameras and the canvas: points in metres become polygons on a supersampled picture and in a map of names.

The canvas keeps, beside the colours, which named object each pixel shows. Boxes and visibility are read from that map,
so they are true of the very picture that was drawn, occlusion included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from pemoe.datasets_scripts.campus.scene import Colour

SUPERSAMPLE = 2
NEAR_M = 2.0
MINIMUM_SHARE = 0.0004  # of the pixels
SUN = np.array([-0.55, -0.5, 0.67])  # unit vector towards the sun: afternoon, from the south-west
Upright = tuple[float, float, Callable[[], None]]  # plan position (x, y) for the order from far to near; what draws it


@dataclass(frozen=True)
class Rendering:
    """A picture, the box [cx, cy, w, h] (fractions 0..1) of each named object seen in it, and its share of pixels."""

    image: Image.Image
    boxes: dict[str, list[float]]
    shares: dict[str, float]


@dataclass(frozen=True)
class Camera:
    """Maps metres to fractions of the picture (x right, y down).

    Pinhole: `focal` is in picture widths. Orthographic (`orthographic=True`): `focal` is picture widths per metre.
    """

    position_m: np.ndarray
    axes: np.ndarray  # (3, 3) columns: right, up, forward
    focal: float
    centre: tuple[float, float] = (0.5, 0.5)
    orthographic: bool = False

    def depth_m(self, points_m: np.ndarray) -> np.ndarray:
        """Distance (...) of points (..., 3) along the line of sight, in metres."""
        return (points_m - self.position_m) @ self.axes[:, 2]

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """Points (..., 3) in metres -> (..., 2) fractions; points must lie before the camera."""
        seen = (points_m - self.position_m) @ self.axes  # (..., 3)
        fractions = seen[..., :2] * (self.focal, -self.focal)  # (..., 2)
        return self.centre + (fractions if self.orthographic else fractions / seen[..., 2:])

    def sees(self, point_m: np.ndarray, normal: np.ndarray) -> bool:
        """True when a face through `point_m` (3,) with outward `normal` (3,) is turned towards the camera."""
        if self.orthographic:
            return float(normal @ self.axes[:, 2]) < -1e-6
        return float(normal @ (self.position_m - point_m)) > 0


def top_down(metres_across: float, offset_m: tuple[float, float]) -> Camera:
    """A camera straight above, north up, seeing `metres_across` around `offset_m`."""
    axes = np.diag([1.0, 1.0, -1.0])
    return Camera(np.array([*offset_m, 500.0]), axes, 1.0 / metres_across, orthographic=True)


def look_at(position_m: np.ndarray, target_m: np.ndarray, focal: float) -> Camera:
    """A pinhole camera at `position_m` (3,) with `target_m` (3,) in the middle of its picture, upright."""
    forward = (target_m - position_m) / np.linalg.norm(target_m - position_m)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return Camera(position_m, np.stack([right, np.cross(right, forward), forward], axis=1), focal)


def level(position_m: np.ndarray, heading_deg: float, focal: float, centre: tuple[float, float]) -> Camera:
    """A pinhole camera looking level towards `heading_deg` (clockwise from north); `centre[1]` is the horizon."""
    angle = np.deg2rad(heading_deg)
    forward = np.array([np.sin(angle), np.cos(angle), 0.0])
    right = np.array([np.cos(angle), -np.sin(angle), 0.0])
    return Camera(position_m, np.stack([right, np.array([0.0, 0.0, 1.0]), forward], axis=1), focal, centre)


def shaded(colour: Colour, factor: float) -> Colour:
    """`colour` times `factor`, clipped to 0..255."""
    return tuple(int(min(255, max(0, channel * factor))) for channel in colour)


def flat(points_m: np.ndarray, z_m: float = 0.0) -> np.ndarray:
    """Plan points (N, 2) at height `z_m` -> (N, 3)."""
    points = np.asarray(points_m, dtype=float)
    return np.concatenate([points, np.full((*points.shape[:-1], 1), z_m)], axis=-1)  # (N, 2) -> (N, 3)


def rectangle(x_m: float, y_m: float, width_m: float, depth_m: float) -> np.ndarray:
    """Corners (4, 2) of an axis-aligned rectangle around (x_m, y_m), counter-clockwise."""
    w, d = width_m / 2, depth_m / 2
    return np.array([(x_m - w, y_m - d), (x_m + w, y_m - d), (x_m + w, y_m + d), (x_m - w, y_m + d)])


def edges(ring_m: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(start, end) of each edge of a closed ring (N, 2)."""
    return zip(ring_m, np.roll(ring_m, -1, axis=0), strict=True)


def ellipse(x_m: float, y_m: float, radius_x_m: float, radius_y_m: float, points: int = 28) -> np.ndarray:
    """Points (N, 2) of an ellipse, counter-clockwise."""
    angle = 2 * np.pi * np.arange(points) / points
    return np.stack([x_m + radius_x_m * np.cos(angle), y_m + radius_y_m * np.sin(angle)], axis=1)


@dataclass
class Canvas:
    """A picture of `size_px` squared drawn through `camera` on `image`; later strokes cover earlier ones.

    `image` comes with its background, `SUPERSAMPLE` times as large as the finished picture.
    """

    camera: Camera
    size_px: int
    image: Image.Image
    numbers: dict[str, int] = field(default_factory=dict)  # in the map, from 1

    def __post_init__(self) -> None:
        self.scale = self.size_px * SUPERSAMPLE
        self.draw = ImageDraw.Draw(self.image)
        self.map = Image.new("L", (self.size_px, self.size_px), 0)
        self.map_draw = ImageDraw.Draw(self.map)
        self.shadow = Image.new("L", self.image.size, 0)
        self.shadow_draw = ImageDraw.Draw(self.shadow)

    def polygon(self, points_m: np.ndarray, colour: Colour, name: str = "") -> None:
        """Fill a polygon (N, 3); with a `name`, its pixels belong to that object from now on."""
        points = self._clipped(points_m)
        if len(points) >= 3:
            fractions = self.camera.project(points)
            self.draw.polygon((fractions * self.scale).ravel().tolist(), fill=colour)
            if name:
                self.map_draw.polygon((fractions * self.size_px).ravel().tolist(), fill=self._number(name))

    def plan(self, points_m: np.ndarray, colour: Colour, name: str = "", z_m: float = 0.0) -> None:
        """Fill a polygon (N, 2) of the plan that lies level at height `z_m`."""
        self.polygon(flat(points_m, z_m), colour, name)

    def polygons(self, points_m: np.ndarray, colour: Colour) -> None:
        """Fill many unnamed polygons (K, N, 3) of one colour; those reaching behind the camera are left out."""
        for points in self._before_camera(points_m):
            self.draw.polygon(points, fill=colour)

    def lines(self, points_m: np.ndarray, colour: Colour, width_px: int = 1) -> None:
        """Draw many polylines (K, N, 3), `width_px` wide in drawing pixels; none that reaches behind the camera."""
        for points in self._before_camera(points_m):
            self.draw.line(points, fill=colour, width=width_px)

    def ball(self, centre_m: np.ndarray, radius_m: float, colour: Colour, name: str = "") -> None:
        """Fill the disc a sphere at `centre_m` (3,) shows."""
        depth = 1.0 if self.camera.orthographic else float(self.camera.depth_m(centre_m))
        if depth <= NEAR_M and not self.camera.orthographic:
            return
        x, y = self.camera.project(centre_m)
        r = radius_m * self.camera.focal / depth
        box = np.array([x - r, y - r, x + r, y + r])
        self.draw.ellipse((box * self.scale).tolist(), fill=colour)
        if name:
            self.map_draw.ellipse((box * self.size_px).tolist(), fill=self._number(name))

    def prism(self, ring_m: np.ndarray, low_m: float, high_m: float, colour: Colour, name: str = "") -> None:
        """A block on a convex counter-clockwise plan (N, 2) from `low_m` to `high_m`, its sides shaded by the sun."""
        for start, end in edges(ring_m):
            edge = end - start
            normal = np.array([edge[1], -edge[0], 0.0]) / (np.hypot(*edge) + 1e-9)
            if self.camera.sees(np.array([*start, low_m]), normal):
                side = [(*start, low_m), (*end, low_m), (*end, high_m), (*start, high_m)]
                self.polygon(np.array(side), shaded(colour, sunlight(normal)), name)
        if self.camera.sees(np.array([*ring_m[0], high_m]), np.array([0.0, 0.0, 1.0])):
            self.polygon(flat(ring_m, high_m), colour, name)

    def cast_shadow(self, ring_m: np.ndarray, height_m: float) -> None:
        """Add the shadow of an upright block on plan `ring_m` (N, 2) to the shadow mask."""
        shift = -SUN[:2] / SUN[2] * height_m
        sides = np.stack([ring_m, np.roll(ring_m, -1, axis=0), np.roll(ring_m, -1, axis=0) + shift, ring_m + shift], 1)
        for polygon in (flat(ring_m), flat(ring_m + shift), *flat(sides)):
            points = self._clipped(polygon)
            if len(points) >= 3:
                self.shadow_draw.polygon((self.camera.project(points) * self.scale).ravel().tolist(), fill=105)

    def lay_shadows(self) -> None:
        """Darken the picture under the shadow mask; call between flat ground and upright objects."""
        self.image.paste((14, 22, 44), (0, 0), self.shadow)

    def finish(self, rng: np.random.Generator, haze: float) -> Rendering:
        """The photograph with boxes and shares of the named objects; those under `MINIMUM_SHARE` are not seen."""
        pixels = np.asarray(self.map)
        rendering = Rendering(_photograph(self.image, rng, haze), {}, {})
        for name, number in self.numbers.items():
            rows, columns = np.nonzero(pixels == number)
            if len(rows) >= max(1.0, MINIMUM_SHARE * pixels.size):
                low = np.array([columns.min(), rows.min()]) / self.size_px
                high = np.array([columns.max() + 1, rows.max() + 1]) / self.size_px
                rendering.boxes[name] = [*((low + high) / 2).tolist(), *(high - low).tolist()]
                rendering.shares[name] = len(rows) / pixels.size
        return rendering

    def _before_camera(self, points_m: np.ndarray) -> list[list[float]]:
        """Drawing pixels [x, y, x, y, ...] of each of (K, N, 3) that lies wholly before the camera."""
        if not self.camera.orthographic:
            points_m = points_m[(self.camera.depth_m(points_m) > NEAR_M).all(axis=1)]
        pixels = self.camera.project(points_m) * self.scale  # (K, N, 2)
        return pixels.reshape(len(pixels), 2 * points_m.shape[1]).tolist()

    def _number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers) + 1)

    def _clipped(self, points_m: np.ndarray) -> np.ndarray:
        """The part of a polygon (N, 3) before the near plane (Sutherland-Hodgman): (M, 3), M may be 0."""
        if self.camera.orthographic:
            return points_m
        depth = self.camera.depth_m(points_m) - NEAR_M
        if (depth > 0).all():
            return points_m
        kept = []
        following = zip(np.roll(points_m, -1, axis=0), np.roll(depth, -1), strict=True)
        for point, here, (after, there) in zip(points_m, depth, following, strict=True):
            if here > 0:
                kept.append(point)
            if here * there < 0:
                kept.append(point + here / (here - there) * (after - point))
        return np.array(kept)


def sunlight(normal: np.ndarray) -> float:
    """Brightness factor 0.72..1.06 of a face with unit `normal` (3,)."""
    return 0.72 + 0.34 * max(0.0, float(normal @ SUN) / 0.75)


def _photograph(image: Image.Image, rng: np.random.Generator, haze: float) -> Image.Image:
    """Reduce the supersampled drawing and give it one camera's light, haze (0..1) and sensor noise."""
    pixels = np.asarray(image.reduce(SUPERSAMPLE), dtype=np.float32)  # (H, W, 3)
    gain = rng.uniform(0.9, 1.08) * rng.uniform(0.97, 1.03, size=3).astype(np.float32)
    pixels = pixels * gain * (1 - haze) + 215.0 * haze
    pixels += rng.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * rng.uniform(1.5, 4.5)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
