"""Distances on the Earth taken as a sphere of its mean radius; boxes of degrees on it."""

from __future__ import annotations

from math import asin, cos, degrees, radians, sin

import numpy as np
from numpy.typing import ArrayLike

EARTH_RADIUS_M = 6_371_008.8  # mean radius, IUGG
METRES_PER_DEGREE = np.pi / 180 * EARTH_RADIUS_M  # of latitude
HALF_GLOBE_KM = np.pi * EARTH_RADIUS_M / 1000  # from a point to its antipode
ROUNDING_DEG = 1e-7  # a centimetre, what boxes are drawn larger by where they stand for something rounded
Box = tuple[float, float, float, float]  # south, west, north, east in degrees, west <= east


def haversine_m(
    latitude_deg: ArrayLike, longitude_deg: ArrayLike, to_latitude_deg: ArrayLike, to_longitude_deg: ArrayLike
) -> np.ndarray:
    """Great-circle distance in metres, float64, of points in WGS84 degrees of shapes that broadcast; NaN where one is.

    d = 2 R asin sqrt( sin^2(dphi / 2) + cos phi_1 cos phi_2 sin^2(dlambda / 2) ), angles in radians (Sinnott 1984,
    Virtues of the Haversine).

    Example:
        >>> round(float(haversine_m(0.0, 0.0, 0.0, 1.0)))
        111195
    """
    ends = (latitude_deg, longitude_deg, to_latitude_deg, to_longitude_deg)
    latitude, longitude, to_latitude, to_longitude = (
        np.deg2rad(np.asarray(angle, dtype=np.float64)) for angle in ends
    )
    across = np.cos(latitude) * np.cos(to_latitude) * np.sin((to_longitude - longitude) / 2) ** 2
    half_chord = np.sqrt(np.sin((to_latitude - latitude) / 2) ** 2 + across)
    return 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(half_chord, 1.0))


def box_parts(south: float, west: float, north: float, east: float) -> list[Box]:
    """A box as boxes that comparing numbers is enough for.

    One from west > east crosses the antimeridian, which is longitude 180 and -180, and falls into two; a pole that it
    reaches has every longitude.

    Example:
        >>> box_parts(-20.0, 170.0, -10.0, -170.0)
        [(-20.0, 170.0, -10.0, 180.0), (-20.0, -180.0, -10.0, -170.0)]
    """
    if west > east:
        parts = [(south, west, north, 180.0), (south, -180.0, north, east)]
    else:
        parts = [(south, west, north, east)]
        if east >= 180 and west > -180:
            parts.append((south, -180.0, north, -180.0))
        if west <= -180 and east < 180:
            parts.append((south, 180.0, north, 180.0))
    if (west, east) != (-180.0, 180.0):
        parts += [(pole, -180.0, pole, 180.0) for pole in (-90.0, 90.0) if south <= pole <= north]
    return parts


def circle_boxes(latitude_deg: float, longitude_deg: float, radius_km: float) -> list[Box]:
    """Boxes that hold all points within a radius; they reach round the earth where a pole lies within it.

    Latitudes phi +- delta with delta = radius / R, longitudes lambda +- asin(sin delta / cos phi) (Bronshtein and
    Semendyayev, spherical triangles with a right angle at the point of tangency).

    Example:
        >>> circle_boxes(89.9, 0.0, 50.0)[0][1::2]
        (-180.0, 180.0)
    """
    reach = degrees(radius_km * 1000 / EARTH_RADIUS_M) + ROUNDING_DEG
    south, north = max(latitude_deg - reach, -90.0), min(latitude_deg + reach, 90.0)
    if south == -90 or north == 90:
        return [(south, -180.0, north, 180.0)]
    across = degrees(asin(min(1.0, sin(radians(reach)) / cos(radians(latitude_deg))))) + ROUNDING_DEG
    west, east = longitude_deg - across, longitude_deg + across
    return box_parts(south, west + 360 if west < -180 else west, north, east - 360 if east > 180 else east)


def shared_boxes(some: list[Box], others: list[Box]) -> list[Box]:
    """What two lists of boxes have in common; `[]` where nothing.

    Example:
        >>> shared_boxes([(0, 0, 10, 10)], [(5, -5, 20, 5)])
        [(5, 0, 10, 5)]
    """
    pairs = [(one, two) for one in some for two in others]
    shared = [(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])) for a, b in pairs]
    return [box for box in shared if box[0] <= box[2] and box[1] <= box[3]]
