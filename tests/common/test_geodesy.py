"""Guards distances on the sphere: known ones, the date line, the poles, a few centimetres, and unknown ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pemoe.common.geodesy import EARTH_RADIUS_M, METRES_PER_DEGREE, box_parts, haversine_m, shared_boxes


def test_known_distances() -> None:
    paris, london = (48.8566, 2.3522), (51.5074, -0.1278)
    assert haversine_m(*paris, *london) == pytest.approx(343_556, rel=1e-4)
    assert haversine_m(0.0, 179.5, 0.0, -179.5) == pytest.approx(METRES_PER_DEGREE, rel=1e-9)  # across the date line
    assert haversine_m(90.0, 0.0, -90.0, 77.0) == pytest.approx(math.pi * EARTH_RADIUS_M)
    assert haversine_m(10.0, 20.0, 10.0, 20.0) == 0.0
    assert haversine_m(-35.0, 10.0, 35.0, -170.0) == pytest.approx(math.pi * EARTH_RADIUS_M)  # the other side


# airports, and kilometres as the Great Circle Mapper gives them (3451, 7488 and 9537 miles on the WGS84 ellipsoid)
HEATHROW, KENNEDY = (51.4775, -0.461389), (40.639751, -73.778925)
SYDNEY, LOS_ANGELES, SINGAPORE = (-33.946111, 151.177222), (33.9425, -118.408056), (1.350189, 103.994433)


@pytest.mark.parametrize(
    ("start", "end", "published_km"),
    [(KENNEDY, HEATHROW, 5554), (SYDNEY, LOS_ANGELES, 12_051), (SINGAPORE, KENNEDY, 15_349)],
)
def test_published_distances_of_airports(start, end, published_km) -> None:
    assert haversine_m(*start, *end) / 1000 == pytest.approx(published_km, rel=0.005)


def test_boxes_join_at_the_antimeridian_and_at_the_poles() -> None:
    assert box_parts(0, 170, 1, 180) == [(0, 170, 1, 180), (0, -180, 1, -180)]
    assert box_parts(0, -180, 1, 180) == [(0, -180, 1, 180)]
    assert (90, -180, 90, 180) in box_parts(80, 10, 90, 20) and len(box_parts(-90, 10, 90, 20)) == 3
    assert shared_boxes(box_parts(0, 170, 1, -170), [(0, -175, 5, 175)]) == [(0, 170, 1, 175), (0, -175, 1, -170)]
    assert shared_boxes([(0, 0, 1, 1)], [(2, 2, 3, 3)]) == []


def test_arrays_broadcast_and_unknown_ends_stay_unknown() -> None:
    metres = haversine_m(np.array([60.0, np.nan]), 0.0, 60.0, 1e-5)
    assert metres[0] == pytest.approx(0.55597, rel=1e-4) and np.isnan(metres[1])
    assert haversine_m(np.zeros((2, 1)), 0.0, 0.0, np.arange(3.0)).shape == (2, 3)
