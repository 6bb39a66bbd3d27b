"""Areas on the earth as users give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Any

from pemoe.common.geodesy import coordinate_fault
from pemoe.retrieval.index.errors import GalleryError

if TYPE_CHECKING:
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

WGS84_NAMES = ("crs84", "epsg:4326", "epsg::4326")  # ends of the names of the one coordinate system that GeoJSON has
GUIDE = "see RFC 7946"


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

    polygons = [_polygon(rings) for rings in _polygons(geojson)]
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
    longitude, latitude = map(float, numbers)
    turned = longitude - 360 * (longitude > 180) + 360 * (longitude < -180) if isfinite(longitude) else longitude
    fault = coordinate_fault(latitude, turned)
    if fault:
        raise GalleryError(f"area: {fault}; GeoJSON positions are [longitude, latitude]")
    return longitude, latitude


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise GalleryError(f"area: {what} is {str(value)[:60]!r}, not a list with something in it, {GUIDE}")
    return list(value)
