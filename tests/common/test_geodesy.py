"""Guards distances on the sphere: known ones, the date line, the poles, a few centimetres, and unknown ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pemoe.common.geodesy import EARTH_RADIUS_M, METRES_PER_DEGREE, haversine_m


def test_known_distances() -> None:
    paris, london = (48.8566, 2.3522), (51.5074, -0.1278)
    assert haversine_m(*paris, *london) == pytest.approx(343_556, rel=1e-4)
    assert haversine_m(0.0, 179.5, 0.0, -179.5) == pytest.approx(METRES_PER_DEGREE, rel=1e-9)  # across the date line
    assert haversine_m(90.0, 0.0, -90.0, 77.0) == pytest.approx(math.pi * EARTH_RADIUS_M)
    assert haversine_m(10.0, 20.0, 10.0, 20.0) == 0.0
    assert haversine_m(-35.0, 10.0, 35.0, -170.0) == pytest.approx(math.pi * EARTH_RADIUS_M)  # the other side


def test_arrays_broadcast_and_unknown_ends_stay_unknown() -> None:
    metres = haversine_m(np.array([60.0, np.nan]), 0.0, 60.0, 1e-5)
    assert metres[0] == pytest.approx(0.55597, rel=1e-4) and np.isnan(metres[1])
    assert haversine_m(np.zeros((2, 1)), 0.0, 0.0, np.arange(3.0)).shape == (2, 3)
