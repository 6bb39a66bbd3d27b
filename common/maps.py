"""Maps as inline SVG that need no network: coast, graticule, scale bar, numbered pins. The standard library alone:
this file and `coastline.json` also travel in the Space, where this package is not.
"""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

EARTH_RADIUS_M = 6_371_008.8  # mean radius, IUGG
METRES_PER_DEGREE = math.pi / 180 * EARTH_RADIUS_M  # of latitude
COASTLINE = Path(__file__).with_name("coastline.json")

WIDTH_PX, ASPECT = 560, 0.68
MARGIN = 0.16  # of the map, free on each side
SMALLEST_DEG = 0.006  # of latitude shown of a single point: some 670 m
COAST_FROM_DEG = 4.0  # of latitude: below that the coast, drawn for 1:110 000 000, would mislead
PIN_PX, TOUCH_PX = 13, 22  # radii: of what is seen, of what a finger hits
FINEST_LEVEL, COARSEST_LEVEL = 19, 3  # of tiles; coarser ones bend too much for laying by corners
MAX_TILES = 80

Box = tuple[float, float, float, float]  # south, west, north, east in degrees; west > east crosses the antimeridian

STYLE = """
.pemoe-map { --sea: light-dark(#dfe8ef, #16212b); --plain: light-dark(#eef1ec, #1d2429);
  --land: light-dark(#f7f5ee, #2d3740); --grid: light-dark(#7b8a9455, #a9b8c455); --ink: light-dark(#24313b, #dbe4ea);
  --pin: light-dark(#b3352b, #c9483d); --first: light-dark(#7d140e, #e8750a); --box: light-dark(#1d5fa8, #7ab5f5);
  display: block; width: 100%; height: auto; color: var(--ink); border-radius: 8px; touch-action: manipulation; }
.pemoe-map text { font: 11px system-ui, sans-serif; fill: var(--ink); paint-order: stroke; stroke: var(--plain);
  stroke-width: 2.5px; stroke-linejoin: round; }
.pemoe-map .pin text { font-weight: 700; fill: #fff; stroke: none; text-anchor: middle; font-size: 13px; }
.pemoe-map .pin { cursor: pointer; outline: none; text-decoration: none !important; }
.pemoe-map .pin circle { fill: var(--pin); stroke: #fff; stroke-width: 1.5; }
.pemoe-map .pin:first-of-type .head { fill: var(--first); }
.pemoe-map .pin .touch { fill: transparent; stroke: none; }
.pemoe-map .pin line { stroke: var(--pin); stroke-width: 2; }
.pemoe-map .pin:focus-visible .head, .pemoe-map .pin:hover .head, .pemoe-map .pin.chosen .head {
  stroke: #ffb000; stroke-width: 4; }
.pemoe-map .area { fill: var(--box); fill-opacity: .1; stroke: var(--box); stroke-width: 2; stroke-dasharray: 6 4; }
@media (max-width: 600px) { .pemoe-map text { font-size: 15px; } .pemoe-map .pin text { font-size: 15px; }
  .pemoe-map .pin .head { r: 16px; } }
"""


@dataclass(frozen=True)
class MapPoint:
    """A place of a map: its number, what is read out and shown when pointed at, degrees (None: not known)."""

    rank: int
    title: str
    latitude_deg: float | None
    longitude_deg: float | None


@dataclass(frozen=True)
class View:
    """What a map shows: an equidistant cylindrical projection about the middle of the view.

    x = (lambda - west) px_per_lon, y = (north - phi) px_per_lat, with px_per_lon / px_per_lat = cos(phi of the middle)
    (Snyder 1987, Map Projections, page 90). `west` is in -180 to 180; the view may run on east of 180.
    """

    west_deg: float
    north_deg: float
    px_per_lon: float
    px_per_lat: float
    width_px: int
    height_px: int

    def to_px(self, latitude_deg: float, longitude_deg: float) -> tuple[float, float]:
        """Where a point is drawn; of its turns around the Earth the one in the view."""
        spare = (360 - self.width_px / self.px_per_lon) / 2  # what is not shown lies half on each side
        along = (longitude_deg - self.west_deg + spare) % 360 - spare
        return along * self.px_per_lon, (self.north_deg - latitude_deg) * self.px_per_lat

    def to_degrees(self, x_px: float, y_px: float) -> tuple[float, float]:
        """Latitude and longitude of a point of the map, longitude in -180 to 180."""
        longitude = self.west_deg + x_px / self.px_per_lon
        return self.north_deg - y_px / self.px_per_lat, (longitude + 180) % 360 - 180

    @property
    def south_deg(self) -> float:
        """Of the lower edge."""
        return self.north_deg - self.height_px / self.px_per_lat

    @property
    def east_deg(self) -> float:
        """Of the right edge, greater than `west_deg`."""
        return self.west_deg + self.width_px / self.px_per_lon


def fit_view(corners: Sequence[tuple[float, float]], width_px: int = WIDTH_PX) -> View:
    """The view that holds points (latitude, longitude) with a margin; the whole Earth for none.

    Of the two ways around the Earth that join the points it takes the shorter: places on both sides of the
    antimeridian lie side by side.

    Example:
        >>> round(fit_view([(-17.0, 179.0), (-17.0, -179.0)]).to_px(-17.0, 180.0)[0])
        280
    """
    if not corners:
        return _fit(-90, 90, -180, 360, width_px)
    latitudes = [latitude for latitude, _ in corners]
    west, wide = _covering_arc([longitude for _, longitude in corners])
    return _fit(min(latitudes), max(latitudes), west, wide, width_px)


def _fit(south: float, north: float, west: float, wide: float, width_px: int) -> View:
    """The view about a box that runs `wide` degrees east of `west`."""
    height_px, free = round(width_px * ASPECT), 1 - 2 * MARGIN
    middle = (south + north) / 2
    narrow = max(math.cos(math.radians(middle)), 0.05)
    across = width_px * free / max(wide * narrow, SMALLEST_DEG)
    px_per_lat = min(height_px * free / max(north - south, SMALLEST_DEG), across)
    px_per_lon = max(px_per_lat * narrow, width_px / 360)  # never more than once around
    if px_per_lon * wide > width_px * free:
        px_per_lat = px_per_lon / narrow
    left = west + wide / 2 - width_px / 2 / px_per_lon
    top = middle + height_px / 2 / px_per_lat
    return View((left + 180) % 360 - 180, top, px_per_lon, px_per_lat, width_px, height_px)


def _covering_arc(longitudes: Sequence[float]) -> tuple[float, float]:
    """The shortest arc that holds all longitudes: its western end and its length in degrees."""
    around = sorted(longitude % 360 for longitude in longitudes)
    gaps = [(following - one) % 360 for one, following in itertools.pairwise([*around, around[0]])]
    if max(gaps) == 0:
        return around[0], 0.0
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    return around[(widest + 1) % len(around)], 360 - gaps[widest]


def draw_map(
    points: Iterable[MapPoint],
    width_px: int = WIDTH_PX,
    area: Box | None = None,
    extent: Box | None = None,
    tiles: str | None = None,
    attribution: str = "",
) -> str:
    """A map as one `<svg>` element that loads nothing, with its own style, light and dark.

    Args:
        points: places; each pin is a link to `#place-RANK`. Those without coordinates are counted below the map.
        width_px: of its own coordinates; it scales with what holds it.
        area: a box to draw, as the area that was searched.
        extent: what is shown where there are no points and no area.
        tiles: address of map tiles in Web Mercator with {z}, {x}, {y}, laid under the rest; where they do not load
            the map stays as it is. None asks nothing of any network.
        attribution: what must be said of the tiles.

    Example:
        >>> 'href="#place-1"' in draw_map([MapPoint(1, "arena", 40.1, -88.2)])
        True
    """
    points = list(points)
    placed = [one for one in points if one.latitude_deg is not None and one.longitude_deg is not None]
    corners = [(one.latitude_deg, one.longitude_deg) for one in placed]
    view = _view_of(corners, area or (None if corners else extent), width_px)
    parts = [_land(view), _tiles(view, tiles) if tiles else "", *_graticule(view)]
    parts += [_area(view, area) if area else "", *_pins(view, placed), _scale_bar(view)]
    notes = [attribution] if tiles and attribution else []
    if len(placed) < len(points):
        notes.append(f"{len(points) - len(placed)} without coordinates")
    if notes:
        parts.append(f'<text x="{width_px - 8}" y="16" text-anchor="end">{html.escape(" · ".join(notes))}</text>')
    size = (
        f'viewBox="0 0 {width_px} {view.height_px}" data-west="{view.west_deg:.9f}" data-north="{view.north_deg:.9f}"'
    )
    scale = f'data-px-per-lon="{view.px_per_lon:.9g}" data-px-per-lat="{view.px_per_lat:.9g}"'
    label = html.escape(f"Map of {len(placed)} places" if placed else "Map")
    return (
        f'<svg class="pemoe-map" role="group" aria-label="{label}" {size} {scale} xmlns="http://www.w3.org/2000/svg">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>"
    )


def bounding_box(points: Sequence[tuple[float, float]]) -> Box | None:
    """The smallest box around points (latitude, longitude), across the antimeridian where that is shorter.

    Example:
        >>> bounding_box([(-17.0, 179.0), (-16.0, -179.0)])
        (-17.0, 179.0, -16.0, -179.0)
    """
    if not points:
        return None
    latitudes, longitudes = zip(*points, strict=True)
    around = sorted(set(longitudes))
    gaps = [following - one for one, following in itertools.pairwise([*around, around[0] + 360])]
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    return min(latitudes), around[(widest + 1) % len(around)], max(latitudes), around[widest]


@cache
def read_coastline() -> tuple[tuple[tuple[float, float], ...], ...]:
    """Land of the Earth as rings of (longitude, latitude) in degrees, cut at the antimeridian."""
    content = json.loads(COASTLINE.read_text(encoding="utf-8"))
    rings = []
    for steps in content["rings"]:
        xs, ys = (itertools.accumulate(steps[axis::2]) for axis in (0, 1))
        degree = content["steps_per_degree"]
        rings.append(tuple((x / degree, y / degree) for x, y in zip(xs, ys, strict=True)))
    return tuple(rings)


def _land(view: View) -> str:
    """Sea and land of the view; one even ground where it is too small for a coast that coarse."""
    whole = f'width="{view.width_px}" height="{view.height_px}"'
    if view.height_px / view.px_per_lat < COAST_FROM_DEG:
        return f'<rect {whole} fill="var(--plain)"/>'
    paths = []
    for turn in (-360, 0, 360):
        for ring in read_coastline():
            drawn = _clip([((x + turn - view.west_deg) * view.px_per_lon, (view.north_deg - y) * view.px_per_lat)
                           for x, y in ring], view)  # fmt: skip
            if len(drawn) > 2:
                paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn) + "Z")
    land = f'<path class="land" d="{"".join(paths)}" fill="var(--land)"/>' if paths else ""
    return f'<rect {whole} fill="var(--sea)"/>{land}'


def _clip(ring: list[tuple[float, float]], view: View) -> list[tuple[float, float]]:
    """What of a polygon lies in the map (Sutherland and Hodgman 1974)."""
    for axis, edge, side in ((0, 0, 1), (0, view.width_px, -1), (1, 0, 1), (1, view.height_px, -1)):
        kept = []
        for one, to in itertools.pairwise([ring[-1], *ring] if ring else []):
            inside, to_inside = side * one[axis] >= side * edge, side * to[axis] >= side * edge
            if inside != to_inside:
                share = (edge - one[axis]) / (to[axis] - one[axis])
                kept.append((one[0] + share * (to[0] - one[0]), one[1] + share * (to[1] - one[1])))
            if to_inside:
                kept.append(to)
        ring = kept
    return ring


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `least`.

    Example:
        >>> nice_step(0.0031), nice_step(12)
        (0.005, 20.0)
    """
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def format_degrees(degrees: float, letters: str, digits: int) -> str:
    """Degrees with N or S, E or W.

    Example:
        >>> format_degrees(-88.25, "EW", 2)
        '88.25° W'
    """
    letter = "" if round(abs(degrees), digits) in (0, 180) else f" {letters[degrees < 0]}"
    return f"{abs(degrees):.{digits}f}°{letter}"


def _graticule(view: View) -> Iterator[str]:
    """Meridians and parallels with their degrees along the lower and the left edge."""
    width, height = view.width_px, view.height_px
    step = min(nice_step(110 / view.px_per_lon), 45.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    for number in range(math.ceil(view.west_deg / step), math.floor(view.east_deg / step) + 1):
        x = (number * step - view.west_deg) * view.px_per_lon
        name = format_degrees((number * step + 180) % 360 - 180, "EW", digits)
        yield f'<path d="M{x:.1f} 0V{height}" stroke="var(--grid)"/>'
        if 40 < x < width - 30:
            yield f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle">{name}</text>'
    step = min(nice_step(80 / view.px_per_lat), 30.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    lowest, highest = max(view.south_deg, -90), min(view.north_deg, 90)
    for number in range(math.ceil(lowest / step), math.floor(highest / step) + 1):
        y = (view.north_deg - number * step) * view.px_per_lat
        yield f'<path d="M0 {y:.1f}H{width}" stroke="var(--grid)"/>'
        if 14 < y < height - 44:
            yield f'<text x="5" y="{y - 4:.1f}">{format_degrees(number * step, "NS", digits)}</text>'


def _scale_bar(view: View) -> str:
    """A length that is exact along the middle parallel."""
    middle = max(min((view.north_deg + view.south_deg) / 2, 89.9), -89.9)
    px_per_m = view.px_per_lon / (METRES_PER_DEGREE * math.cos(math.radians(middle)))
    length_m = nice_step(60 / px_per_m)
    name = f"{length_m:g} m" if length_m < 1000 else f"{length_m / 1000:g} km"
    x, y, long_px = 8, view.height_px - 28, length_m * px_per_m
    bar = f'<path d="M{x} {y - 5}v5h{long_px:.1f}v-5" fill="none" stroke="var(--ink)" stroke-width="2"/>'
    return f'<g class="scale">{bar}<text x="{x + long_px + 6:.1f}" y="{y}">{name}</text></g>'


def _area(view: View, area: Box) -> str:
    """The outline of a box."""
    south, west, north, _ = area
    x, y = view.to_px(north, west)
    wide, tall = _width_deg(area) * view.px_per_lon, (north - south) * view.px_per_lat
    return f'<rect class="area" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'


def _width_deg(box: Box) -> float:
    """How far a box runs from west to east."""
    return 360.0 if box[3] - box[1] >= 360 else (box[3] - box[1]) % 360


def _view_of(corners: list[tuple[float, float]], box: Box | None, width_px: int) -> View:
    """The view of a box where it holds all points, else of the points."""
    if box is None:
        return fit_view(corners, width_px)
    south, west, north, _ = box
    view = _fit(south, north, west, _width_deg(box), width_px)
    drawn = [view.to_px(*where) for where in corners]
    inside = all(0 <= x <= view.width_px and 0 <= y <= view.height_px for x, y in drawn)
    return view if inside else fit_view(corners, width_px)


def _pins(view: View, points: Sequence[MapPoint]) -> Iterator[str]:
    """A dot at each place and its number beside it, where no other number stands; links in the order of ranks."""
    heads: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda one: one.rank):
        x, y = view.to_px(point.latitude_deg, point.longitude_deg)
        heads.append(head := _free_spot(x, y, heads, view))
        title = html.escape(f"{point.rank}. {point.title}", quote=True)
        at = f'cx="{head[0]:.1f}" cy="{head[1]:.1f}"'
        yield (
            f'<a class="pin" href="#place-{point.rank}" data-rank="{point.rank}" tabindex="0" aria-label="{title}">'
            f'<title>{title}</title><line x1="{x:.1f}" y1="{y:.1f}" x2="{head[0]:.1f}" y2="{head[1]:.1f}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/><circle class="touch" {at} r="{TOUCH_PX}"/>'
            f'<circle class="head" {at} r="{PIN_PX}"/>'
            f'<text x="{head[0]:.1f}" y="{head[1] + 4.5:.1f}">{point.rank}</text></a>'
        )


def _free_spot(x: float, y: float, taken: Sequence[tuple[float, float]], view: View) -> tuple[float, float]:
    """Where the number of a dot stands: above it, or the first place around it that is free and on the map."""
    spots = [
        (x + far * math.sin(angle), y - far * math.cos(angle))
        for far in (26, 62, 98, 134)
        for angle in (0, 0.6, -0.6, 1.2, -1.2, 1.9, -1.9, 2.5, -2.5, math.pi)
    ]
    edge = PIN_PX + 4
    inside = [
        spot for spot in spots if edge < spot[0] < view.width_px - edge and edge < spot[1] < view.height_px - edge
    ]
    free = (spot for spot in inside if all(math.dist(spot, other) >= 2 * TOUCH_PX for other in taken))
    return next(free, (inside or spots)[0])


def _tiles(view: View, template: str) -> str:
    """Web Mercator tiles of the map's own resolution, each laid between its own corners."""
    edge = 85.05112878  # atan(sinh(pi)): the square of Web Mercator
    north, south = min(view.north_deg, edge), max(view.south_deg, -edge)
    level = math.ceil(math.log2(360 * view.px_per_lon / 256))
    level = max(COARSEST_LEVEL, min(FINEST_LEVEL, level))

    def row_of(latitude_deg: float) -> float:
        return (1 - math.asinh(math.tan(math.radians(latitude_deg))) / math.pi) / 2 * 2**level

    def latitude_of(row: int) -> float:
        return math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / 2**level))))

    wide = 360 / 2**level
    columns = range(math.floor((view.west_deg + 180) / wide), math.ceil((view.east_deg + 180) / wide))
    rows = range(math.floor(row_of(north)), min(math.ceil(row_of(south)), 2**level))
    if len(columns) * len(rows) > MAX_TILES:
        return ""
    images = []
    for column, row in itertools.product(columns, rows):
        x, y = (column * wide - 180 - view.west_deg) * view.px_per_lon, latitude_of(row)
        address = template.replace("{z}", str(level)).replace("{x}", str(column % 2**level)).replace("{y}", str(row))
        top, low = ((view.north_deg - one) * view.px_per_lat for one in (y, latitude_of(row + 1)))
        size = f'x="{x:.2f}" y="{top:.2f}" width="{wide * view.px_per_lon + 0.3:.2f}" height="{low - top + 0.3:.2f}"'
        images.append(f'<image class="tile" {size} preserveAspectRatio="none" href="{html.escape(address)}"/>')
    return "".join(images)
