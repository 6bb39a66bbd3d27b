"""Which pictures of an index are searched: by platform, box, radius, polygon, time, ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pemoe.common.coordinates import coordinate_fault
from pemoe.common.geodesy import (
    HALF_GLOBE_KM,
    ROUNDING_DEG,
    Box,
    box_parts,
    circle_boxes,
    haversine_m,
    shared_boxes,
)
from pemoe.retrieval.index.areas import polygon_of
from pemoe.retrieval.index.errors import GalleryError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

NEEDED = ("image_id", "place_id", "platform", "latitude_deg", "longitude_deg", "captured_at")  # what `mask` reads
NAMES = {"platforms": "platform", "image_ids": "image_id", "place_ids": "place_id"}  # field -> column
MICROSECONDS = pa.timestamp("us", tz="UTC")  # a bound may lie between two milliseconds
MAX_BOXES = 8  # of `bounds`; more pieces share one


@dataclass(frozen=True)
class Filter:
    """A picture must satisfy all that is given; one without coordinates lies in no area, one without a time at none.

    Borders belong to an area, those of holes too. Longitude 180 and -180 are one meridian, and a pole has every
    longitude. Edges of polygons are straight in degrees (RFC 7946 §3.1.1). `()` restricts nothing.

    Args:
        platforms: names.
        box: (south, west, north, east) in degrees; west > east crosses the antimeridian.
        near: (latitude_deg, longitude_deg, radius_km), along the sphere.
        area: a GeoJSON Polygon or MultiPolygon, or a Feature, FeatureCollection or GeometryCollection of them.
        since, until: bounds of `captured_at`, both included; without a time zone they are UTC.
        image_ids, place_ids: ids.

    Raises:
        GalleryError: what is no place, area or time on the earth, in one line.

    Example:
        >>> Filter(near=(89.9, 0.0, 50.0)).bounds()[0][1:]  # a pole lies within
        (-180.0, 90.0, 180.0)
    """

    platforms: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None
    near: tuple[float, float, float] | None = None
    area: Mapping[str, Any] | None = field(default=None, hash=False)
    since: datetime | None = None
    until: datetime | None = None
    image_ids: tuple[str, ...] = ()
    place_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in NAMES:
            self._set(name, _texts(getattr(self, name), name))
        if self.box is not None:
            self._set("box", _checked_box(_numbers(self.box, "box", "south, west, north, east")))
        if self.near is not None:
            self._set("near", _checked_circle(_numbers(self.near, "near", "latitude_deg, longitude_deg, radius_km")))
        for name in ("since", "until"):
            self._set(name, _in_utc(getattr(self, name), name))
        if self.since and self.until and self.since > self.until:
            raise GalleryError(f"since {self.since.isoformat()} is after until {self.until.isoformat()}; swap them")
        if self.area is not None:
            _ = self._polygon  # refuse now, not in the first search

    @property
    def is_empty(self) -> bool:
        """Whether it lets everything pass."""
        return self == Filter()

    def bounds(self) -> list[Box] | None:
        """Boxes (south, west, north, east), west <= east, that hold all rows that pass: what engines look up first.

        None where coordinates do not matter, so that rows without any may pass; `[]` where nothing can pass, as of a
        box and a polygon far from each other.
        """
        given = [self._box_parts, self._circle_boxes, self._polygon_boxes]
        known = [boxes for boxes in given if boxes is not None]
        if not known:
            return None
        shared = known[0]
        for boxes in known[1:]:
            shared = shared_boxes(shared, boxes)
        return shared

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table with the columns `NEEDED` pass, `(n,)` bool: the exact answer, of every engine."""
        passed = np.ones(len(table), dtype=bool)
        for name, column in NAMES.items():
            if getattr(self, name):
                passed &= _to_bools(pc.is_in(table[column], value_set=pa.array(getattr(self, name))))
        passed &= self._in_time(table)
        boxes = self.bounds()
        if boxes is None:
            return passed
        latitude, longitude = (_to_floats(table[name]) for name in ("latitude_deg", "longitude_deg"))
        passed &= _in_boxes(boxes, latitude, longitude)
        rows = np.flatnonzero(passed)  # the few that need more arithmetic
        passed[rows] = self._in_area(latitude[rows], longitude[rows])
        return passed

    def _in_time(self, table: pa.Table) -> np.ndarray | bool:
        if self.since is None and self.until is None:
            return True
        taken = table["captured_at"].cast(MICROSECONDS)
        passed = pc.is_valid(taken)
        if self.since is not None:
            passed = pc.and_(passed, pc.greater_equal(taken, pa.scalar(self.since, MICROSECONDS)))
        if self.until is not None:
            passed = pc.and_(passed, pc.less_equal(taken, pa.scalar(self.until, MICROSECONDS)))
        return _to_bools(passed)

    def _in_area(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Whether points that lie in `bounds` lie in the circle and the polygon too."""
        inside = np.ones(len(latitude), dtype=bool)
        if self.near is not None:
            inside &= haversine_m(latitude, longitude, *self.near[:2]) <= 1000 * self.near[2]
        if self.area is not None:
            inside &= _in_polygon(self._polygon, latitude, longitude)
        return inside

    @cached_property
    def _box_parts(self) -> list[Box] | None:
        return None if self.box is None else box_parts(*self.box)

    @cached_property
    def _circle_boxes(self) -> list[Box] | None:
        return None if self.near is None else circle_boxes(*self.near)

    @cached_property
    def _polygon(self) -> BaseGeometry:
        return polygon_of(self.area)

    @cached_property
    def _polygon_boxes(self) -> list[Box] | None:
        if self.area is None:
            return None
        pieces = getattr(self._polygon, "geoms", [self._polygon])
        pieces = pieces if len(pieces) <= MAX_BOXES // 2 else [self._polygon]
        return [box for one in pieces for box in _boxes_of(one.bounds)]

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def parse_time(text: str) -> datetime:
    """A date or time in ISO 8601, with a zone where it names one; GalleryError for anything else.

    Example:
        >>> parse_time("2024-05-01T12:30:00Z").isoformat()
        '2024-05-01T12:30:00+00:00'
    """
    try:
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00"))  # Python 3.10 knows no Z
    except ValueError as error:
        raise GalleryError(f"time {text[:60]!r} is no date; write 2024-05-01 or 2024-05-01T12:30:00Z") from error


def _texts(values: Any, name: str) -> tuple[str, ...]:
    values = (values,) if isinstance(values, str) else tuple(values)
    wrong = next((one for one in values if not isinstance(one, str)), None)
    if wrong is not None:
        raise GalleryError(f"{name}: {wrong!r} is not text")
    return tuple(dict.fromkeys(values))  # an id that is named twice is one picture, in however many conditions


def _numbers(values: Any, name: str, wanted: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(one) for one in values)
    except (TypeError, ValueError) as error:
        raise GalleryError(f"{name}: {values!r}; give the numbers ({wanted})") from error
    if len(numbers) != wanted.count(",") + 1 or not all(map(isfinite, numbers)):
        raise GalleryError(f"{name}: {numbers}; give {wanted.count(',') + 1} finite numbers ({wanted})")
    return numbers


def _checked_box(box: tuple[float, ...]) -> tuple[float, ...]:
    south, west, north, east = box
    fault = coordinate_fault(south, west) or coordinate_fault(north, east)
    if not fault and south > north:
        fault = f"south {south} is north of north {north}"
    if fault:
        raise GalleryError(f"box: {fault}; give degrees as (south, west, north, east)")
    return box


def _checked_circle(circle: tuple[float, ...]) -> tuple[float, ...]:
    latitude, longitude, radius_km = circle
    fault = coordinate_fault(latitude, longitude)
    if not fault and not 0 < radius_km <= HALF_GLOBE_KM:
        fault = f"a radius of {radius_km} km is not between 0 and {HALF_GLOBE_KM:.0f}, half the way round the earth"
    if fault:
        raise GalleryError(f"near: {fault}; give (latitude_deg, longitude_deg, radius_km)")
    return circle


def _in_utc(time: Any, name: str) -> datetime | None:
    if time is None:
        return None
    if not isinstance(time, datetime):
        raise GalleryError(f"{name}: {time!r} is no datetime; give datetime(2024, 5, 1), which is taken as UTC")
    try:
        return time.replace(tzinfo=timezone.utc) if time.utcoffset() is None else time.astimezone(timezone.utc)
    except OverflowError as error:
        raise GalleryError(f"{name}: {time} has no UTC time; leave it out") from error


def _to_bools(values: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(bool)


def _to_floats(values: pa.ChunkedArray) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False).astype(np.float64)


def _in_boxes(boxes: list[Box], latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(latitude), dtype=bool)
    for south, west, north, east in boxes:
        inside |= (latitude >= south) & (latitude <= north) & (longitude >= west) & (longitude <= east)
    return inside


def _in_polygon(polygon: BaseGeometry, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Border included; a polygon may reach beyond 180 degrees, so that each point is looked for at every turn."""
    import shapely

    shapely.prepare(polygon)
    inside = np.zeros(len(latitude), dtype=bool)
    west, _, east, _ = polygon.bounds
    for turn in (-360.0, 0.0, 360.0):
        rows = np.flatnonzero(~inside & (longitude + turn >= west) & (longitude + turn <= east))
        inside[rows] = shapely.intersects_xy(polygon, longitude[rows] + turn, latitude[rows])
    return inside


def _boxes_of(bounds: tuple[float, float, float, float]) -> list[Box]:
    """Boxes of a rectangle that may reach beyond 180 degrees; there a little larger, for the rounding of a turn."""
    west, south, east, north = bounds
    if east - west >= 360:
        return box_parts(south, -180.0, north, 180.0)
    west = west if abs(west) <= 180 else (west + 180) % 360 - 180 - ROUNDING_DEG
    east = east if abs(east) <= 180 else (east + 180) % 360 - 180 + ROUNDING_DEG
    return box_parts(south, west, north, east)
