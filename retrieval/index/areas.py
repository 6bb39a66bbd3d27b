"""Places and areas on the earth as users give them: text, GeoJSON, KML.

Text has latitude before longitude, GeoJSON and KML longitude before latitude.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pemoe.common.coordinates import LETTERS, coordinate_fault, parse_angle
from pemoe.common.errors import InputError, one_line
from pemoe.datasets_scripts.sources.coordinates import read_kml
from pemoe.retrieval.index.errors import GalleryError

if TYPE_CHECKING:
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

WGS84_NAMES = ("crs84", "epsg:4326", "epsg::4326")  # ends of the names of the one coordinate system that GeoJSON has
GUIDE = "see RFC 7946"
POSITION = "give latitude,longitude such as 40.1,-88.2"
BOX = "give south,west,north,east such as 40.0,-88.3,40.2,-88.1"
MAX_LENGTH = 200  # characters of a position or box
_GEO_URI = re.compile(r"geo:([^,;?]+),([^,;?]+)(?:,[^,;?]+)?((?:;[^;?]+)*)(?:\?z=\d+)?", re.IGNORECASE)


def parse_position(text: str) -> tuple[float, float]:
    """`(latitude_deg, longitude_deg)` of text: `40.1,-88.2`, `N40.11 W88.2`, `40°06'36"N 88°12'W`, `geo:40.1,-88.2`.

    Angles as in `common.coordinates.parse_angle`, latitude first, with a comma, a semicolon or, where nothing else is
    meant by it, a blank between them.

    Raises:
        GalleryError: no two such angles, decimal commas, swapped ones, not on the earth.

    Example:
        >>> parse_position("40 6 36 N, 88 12 0 W")
        (40.11, -88.2)
    """
    given = f"position {text[:MAX_LENGTH]!r}"
    parts = _geo_parts(text.strip(), given) if text.strip().lower().startswith("geo:") else _halves(text.strip())
    if len(text) > MAX_LENGTH or len(parts) != 2:
        hint = "write decimal points, " if text.count(",") in (2, 3) else ""
        raise GalleryError(f"{given} is not two angles; {hint}{POSITION}")
    try:
        latitude, longitude = parse_angle(parts[0], "latitude"), parse_angle(parts[1], "longitude")
    except InputError as error:
        raise GalleryError(f"{given}: {error}") from error
    fault = coordinate_fault(latitude, longitude)
    if fault:
        raise GalleryError(f"{given}: {fault}; {POSITION}")
    return latitude, longitude


def _geo_parts(text: str, given: str) -> list[str]:
    """The two numbers of a geo URI (RFC 5870); altitude, uncertainty and zoom are not looked at."""
    match = _GEO_URI.fullmatch(text)
    systems = re.findall(r";crs=([^;]*)", text.lower())
    if match is None or any(system != "wgs84" for system in systems):
        raise GalleryError(f"{given} is no geo URI in WGS84; write geo:40.1,-88.2")
    return [match[1], match[2]]


def _halves(text: str) -> list[str]:
    """The parts of a position between commas or semicolons, else behind or before its letters, else between blanks."""
    if "," in text or ";" in text:
        return [part.strip() for part in re.split(";" if ";" in text else ",", text)]
    letters = [place for place, sign in enumerate(text) if sign.upper() in LETTERS]
    if len(letters) == 2:
        cut = letters[1] if letters[0] == 0 else letters[0] + 1
        return [text[:cut].strip(), text[cut:].strip()]
    return text.split()


def parse_box(text: str) -> tuple[float, float, float, float]:
    """`(south, west, north, east)` in degrees of four angles between commas; west > east crosses the antimeridian.

    Raises:
        GalleryError: not four angles; `Filter` refuses those that bound nothing on the earth.

    Example:
        >>> parse_box("20S,170E,10S,170W")
        (-20.0, 170.0, -10.0, -170.0)
    """
    given, parts = f"box {text[:MAX_LENGTH]!r}", text.split(",")
    if len(text) > MAX_LENGTH or len(parts) != 4:
        raise GalleryError(f"{given} is not four angles with decimal points; {BOX}")
    try:
        south, north = (parse_angle(part.strip(), "latitude") for part in parts[::2])
        west, east = (parse_angle(part.strip(), "longitude") for part in parts[1::2])
    except InputError as error:
        raise GalleryError(f"{given}: {error}; {BOX}") from error
    return south, west, north, east


def read_area(text: str) -> dict[str, Any]:
    """The area that a user names, as the arguments `box` or `area` of `Filter`.

    Args:
        text: `south,west,north,east`; GeoJSON; or the path of a GeoJSON file, or of a KML or KMZ file with polygons.

    Raises:
        GalleryError: neither; or a file that cannot be read.

    Example:
        >>> read_area("40.0,-88.3,40.2,-88.1")
        {'box': (40.0, -88.3, 40.2, -88.1)}
    """
    if text.lstrip().startswith("{"):
        return {"area": _parse_json(text, "the GeoJSON")}
    path = Path(text)
    if not _is_file(path) and text.count(",") == 3:
        return {"box": parse_box(text)}
    if not _is_file(path):
        raise GalleryError(f"area {text[:MAX_LENGTH]!r} is no file, no GeoJSON and no box; {BOX}")
    if path.suffix.lower() in (".kml", ".kmz"):
        return {"area": _kml_area(path)}
    try:
        return {"area": _parse_json(path.read_text(encoding="utf-8-sig"), str(path))}
    except (OSError, UnicodeDecodeError) as error:
        raise GalleryError(f"area {path} cannot be read as GeoJSON ({one_line(error)}); save it as GeoJSON") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or holding a null
        return False


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GalleryError(f"area: {where} is not valid JSON ({one_line(error)}); export it as GeoJSON") from error


def _kml_area(path: Path) -> dict[str, Any]:
    """The polygons of a KML file as GeoJSON."""
    polygons = []
    for polygon in read_kml(path).iterfind(".//{*}Polygon"):
        shell = polygon.iterfind("{*}outerBoundaryIs/{*}LinearRing/{*}coordinates")
        holes = polygon.iterfind("{*}innerBoundaryIs/{*}LinearRing/{*}coordinates")
        polygons.append([_kml_ring(ring.text or "", path) for ring in (*shell, *holes)])
    if not polygons:
        raise GalleryError(f"area: {path} holds no polygon; draw one")
    return {"type": "MultiPolygon", "coordinates": polygons}


def _kml_ring(text: str, path: Path) -> list[list[float]]:
    """KML's `longitude,latitude[,altitude]` between blanks."""
    try:
        return [[float(number) for number in corner.split(",")] for corner in text.split()]
    except ValueError as error:
        raise GalleryError(f"area: {path} has the corners {text.strip()[:60]!r}; export it again") from error


def polygon_of(geojson: Mapping[str, Any]) -> BaseGeometry:
    """A GeoJSON area as one shapely geometry, x longitude and y latitude; what several polygons cover together.

    A polygon across the antimeridian is either cut there (RFC 7946 §3.1.9) or goes on beyond 180 degrees, so that x
    lies in [-360, 360]. One whose longitudes jump from one side to the other means two things and is refused.

    Raises:
        GalleryError: no area, a ring that is open or crosses itself, positions that are not on the earth.

    Example:
        >>> ring = [[170.0, -20.0], [190.0, -20.0], [190.0, -10.0], [170.0, -20.0]]
        >>> polygon_of({"type": "Polygon", "coordinates": [ring]}).bounds
        (170.0, -20.0, 190.0, -10.0)
    """
    import shapely

    try:
        polygons = [_polygon(rings) for rings in _polygons(geojson)]
    except RecursionError as error:
        raise GalleryError("area: the GeoJSON is nested too deep; give a Polygon or MultiPolygon") from error
    if not polygons:
        raise GalleryError("area: the GeoJSON holds no polygon; draw one")
    return polygons[0] if len(polygons) == 1 else shapely.union_all(polygons)


def _polygons(geojson: Any) -> Iterator[Sequence[Any]]:
    """The coordinates of every polygon in a GeoJSON object, one list of rings each."""
    if not isinstance(geojson, Mapping):
        raise GalleryError(f"area: {str(geojson)[:60]!r} is no GeoJSON object; give a Polygon or MultiPolygon")
    kind = geojson.get("type")
    _check_system(geojson.get("crs"))
    members = {"FeatureCollection": "features", "GeometryCollection": "geometries", "MultiPolygon": "coordinates"}
    if kind in members:
        items = _list(geojson.get(members[kind]), f"{members[kind]} of a {kind}")
        for item in items:
            yield from (item,) if kind == "MultiPolygon" else _polygons(item)
    elif kind == "Feature":
        yield from _polygons(geojson.get("geometry"))
    elif kind == "Polygon":
        yield geojson.get("coordinates")
    else:
        raise GalleryError(f"area: GeoJSON of type {kind!r} has no inside; give a Polygon or MultiPolygon")


def _check_system(crs: Any) -> None:
    """GeoJSON is WGS84; older writers could name another system."""
    if crs is not None and not str(crs).lower().rstrip("'}\" ").endswith(WGS84_NAMES):
        raise GalleryError(f"area: its coordinates are in {str(crs)[:80]}; write it as WGS84 degrees (EPSG:4326)")


def _polygon(rings: Any) -> Polygon:
    import shapely

    shell, *holes = [_ring(one) for one in _list(rings, "coordinates of a Polygon")]
    polygon = shapely.Polygon(shell, holes)
    if not polygon.is_valid:
        raise GalleryError(f"area: a polygon crosses or touches itself ({shapely.is_valid_reason(polygon)}); mend it")
    if polygon.bounds[2] - polygon.bounds[0] > 360:
        raise GalleryError("area: a polygon is wider than 360 degrees; end it where it meets itself")
    return polygon


def _ring(positions: Any) -> list[tuple[float, float]]:
    """A closed ring of (longitude, latitude), checked."""
    ring = [_position(one) for one in _list(positions, "a ring")]
    if len(ring) < 4 or ring[0] != ring[-1]:
        raise GalleryError(f"area: a ring from {ring[0]} to {ring[-1]} is not closed; end it where it begins, {GUIDE}")
    for (west, south), (east, north) in pairwise(ring):
        is_pole = south == north and abs(south) == 90
        if abs(east - west) > 180 and not is_pole:
            raise GalleryError(
                f"area: an edge jumps from longitude {west} to {east}; cut the polygon at 180 (RFC 7946 §3.1.9), "
                "go on beyond 180 (181, 182), or put a corner between the two"
            )
    return ring


def _position(position: Any) -> tuple[float, float]:
    numbers = _list(position, "a position")[:2]
    if len(numbers) < 2 or any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in numbers):
        raise GalleryError(f"area: {str(position)[:60]} is no position; give [longitude, latitude], {GUIDE}")
    longitude, latitude = (float(one) if abs(one) <= 1e9 else inf for one in numbers)  # an int may be beyond floats
    turned = longitude - 360 * (longitude > 180) + 360 * (longitude < -180) if isfinite(longitude) else longitude
    fault = coordinate_fault(latitude, turned)
    if fault:
        raise GalleryError(f"area: {fault}; GeoJSON positions are [longitude, latitude]")
    return longitude, latitude


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise GalleryError(f"area: {what} is {str(value)[:60]!r}, not a list with something in it, {GUIDE}")
    return list(value)
