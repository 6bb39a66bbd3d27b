"""Distances on the Earth taken as a sphere of its mean radius."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

EARTH_RADIUS_M = 6_371_008.8  # mean radius, IUGG
METRES_PER_DEGREE = np.pi / 180 * EARTH_RADIUS_M  # of latitude


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
    degrees = (latitude_deg, longitude_deg, to_latitude_deg, to_longitude_deg)
    latitude, longitude, to_latitude, to_longitude = (
        np.deg2rad(np.asarray(angle, dtype=np.float64)) for angle in degrees
    )
    across = np.cos(latitude) * np.cos(to_latitude) * np.sin((to_longitude - longitude) / 2) ** 2
    half_chord = np.sqrt(np.sin((to_latitude - latitude) / 2) ** 2 + across)
    return 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(half_chord, 1.0))
