"""Which pictures of an index are searched: by platform, box, radius, polygon, time, ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pemoe.common.geodesy import haversine_m
from pemoe.retrieval.index.errors import GalleryError

NEEDED = ("image_id", "place_id", "platform", "latitude_deg", "longitude_deg", "captured_at")  # what `mask` reads


@dataclass(frozen=True)
class Filter:
    """A picture must satisfy all that is given; one without coordinates lies in no area, one without a time at none.

    Args:
        platforms: names.
        box: (south, west, north, east) in degrees; west > east crosses the antimeridian.
        near: (latitude_deg, longitude_deg, radius_km).
        area: a GeoJSON Polygon or MultiPolygon (a Feature or FeatureCollection of them too).
        since, until: bounds of `captured_at`, both included; without a time zone they are UTC.
        image_ids, place_ids: ids.
    """

    platforms: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None
    near: tuple[float, float, float] | None = None
    area: Mapping[str, Any] | None = None
    since: datetime | None = None
    until: datetime | None = None
    image_ids: tuple[str, ...] = ()
    place_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.area is not None or self.since is not None or self.until is not None:
            raise GalleryError("area and time are not known yet")

    @property
    def is_empty(self) -> bool:
        """Whether it lets everything pass."""
        return self == Filter()

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table with the columns `NEEDED` pass, `(n,)` bool: the exact answer, of every engine."""
        passed = np.ones(len(table), dtype=bool)
        for name, column in (("platforms", "platform"), ("image_ids", "image_id"), ("place_ids", "place_id")):
            if getattr(self, name):
                passed &= np.isin(table[column].to_numpy(zero_copy_only=False), getattr(self, name))
        latitude = table["latitude_deg"].to_numpy(zero_copy_only=False).astype(float)
        longitude = table["longitude_deg"].to_numpy(zero_copy_only=False).astype(float)
        if self.box is not None:
            south, west, north, east = self.box
            inside = (longitude >= west) & (longitude <= east)
            if west > east:
                inside = (longitude >= west) | (longitude <= east)
            passed &= inside & (latitude >= south) & (latitude <= north)
        if self.near is not None:
            distance_m = haversine_m(latitude, longitude, *self.near[:2])
            passed &= np.nan_to_num(distance_m, nan=np.inf) <= 1000 * self.near[2]
        return passed
