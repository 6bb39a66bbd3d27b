"""What a user says of where and when, as a filter of the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, time
from typing import Any

from pemoe.retrieval.index import Filter
from pemoe.retrieval.index.areas import parse_position, read_area
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import parse_time


def filter_of(
    near: tuple[float, float] | str | None = None,
    radius_km: float | None = None,
    area: Mapping[str, Any] | tuple[float, float, float, float] | str | None = None,
    platforms: str | Sequence[str] | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
) -> Filter:
    """The filter of what is given; see `locate` for the arguments. Times may be ISO 8601 text.

    Raises:
        GalleryError: a position without a radius or a radius without a position, an area or a time that is none.

    Example:
        >>> filter_of(platforms="drone", until="2024-05-01").until.isoformat()
        '2024-05-01T23:59:59.999999+00:00'
    """
    if (near is None) != (radius_km is None):
        raise GalleryError("near and radius_km belong together: give both (--near LAT,LON --radius-km R) or neither")
    where = Filter(
        platforms=(platforms,) if isinstance(platforms, str) else tuple(platforms or ()),
        near=None if near is None else (*(parse_position(near) if isinstance(near, str) else near), float(radius_km)),
        since=_time(since, time.min),
        until=_time(until, time.max),
    )
    if isinstance(area, str):
        return replace(where, **read_area(area))
    return where if area is None else replace(where, **{"area" if isinstance(area, Mapping) else "box": area})


def _time(given: datetime | str | None, of_day: time) -> datetime | None:
    """A time as text; a day alone stands for its beginning or its end, whichever is asked for."""
    if not isinstance(given, str):
        return given
    moment = parse_time(given)
    return datetime.combine(moment, of_day) if len(given.strip()) <= len("2024-05-01") else moment
