"""Invariant: a filter passes exactly the rows that its words say, on the whole sphere, and its boxes hold all of them;
what is no place or time on the earth is refused in one line."""

from __future__ import annotations

import pickle
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pemoe.common.geodesy import haversine_m
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import Filter


def rows_at(*points: tuple[float | None, float | None], times: list[datetime | None] | None = None) -> pa.Table:
    latitude, longitude = zip(*points, strict=True)
    names = [f"{number}" for number in range(len(points))]
    return pa.table(
        {
            "image_id": names,
            "place_id": [f"place {name}" for name in names],
            "platform": ["drone" if number % 2 else "street" for number in range(len(points))],
            "latitude_deg": pa.array(latitude, pa.float64()),
            "longitude_deg": pa.array(longitude, pa.float64()),
            "captured_at": pa.array(times or [None] * len(points), pa.timestamp("ms", tz="UTC")),
        }
    )


def ring(*corners: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[list(corner) for corner in (*corners, corners[0])]]}


def square(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    return ring((west, south), (east, south), (east, north), (west, north))


CUT = {
    "type": "MultiPolygon",
    "coordinates": [square(one, -20, two, -10)["coordinates"] for one, two in ((170, 180), (-180, -170))],
}
DONUT = {"type": "Polygon", "coordinates": square(0, 0, 10, 10)["coordinates"] + square(4, 4, 6, 6)["coordinates"]}
WORLD = {"west": -180, "south": -90, "east": 180, "north": 90}
FIJI, SAMOA, TONGA = (-17.7, 178.1), (-13.8, -171.8), (-15.0, 180.0)

INSIDE = [
    (Filter(box=(-20, 170, -10, -170)), [FIJI, SAMOA, (-15, 180), (-15, -180), (-20, 170)], [(-15, 169), (-15, 0)]),
    (Filter(box=(-20, 170, -10, 180)), [FIJI, (-15, -180)], [SAMOA]),
    (Filter(box=(-20, -180, -10, -170)), [SAMOA, (-15, 180)], [FIJI]),
    (Filter(box=(80, 10, 90, 20)), [(85, 15), (90, -100)], [(85, 21)]),
    (Filter(box=(-90, -180, 90, 180)), [(90, 0), (-90, 5), (0, 180), (0, -180)], [(None, None), (None, 5)]),
    (Filter(box=(-35, -75, 0, -40)), [(-33.4, -70.6), (-22.9, -43.2)], [(33.4, -70.6), (-33.4, 70.6)]),
    (Filter(near=(0, 179.9, 50)), [(0, -179.9), (0, 180), (0, -180)], [(0, 179), (0, -179), (None, None)]),
    (Filter(near=(89.9, 0, 50)), [(89.9, 180), (90, 77), (89.8, -90)], [(89.4, 0), (-89.9, 0)]),
    (Filter(near=(-90, 0, 120)), [(-89, 33), (-89, -170)], [(-88, 0)]),
    (Filter(near=(0, 0, 20_015)), [(-90, 0), (0, 179)], [(None, 3), (0, 180)]),
    (Filter(area=CUT), [FIJI, SAMOA, (-15, 180), (-15, -180)], [(-15, 0), (-15, 169), (15, 175), (None, None)]),
    (Filter(area=square(170, -20, 190, -10)), [FIJI, SAMOA, TONGA, (-15, -180)], [(-15, 169), (-15, -169)]),
    (Filter(area=square(-190, -20, -170, -10)), [FIJI, SAMOA, TONGA, (-15, -180)], [(-15, 169), (-15, -169)]),
    (Filter(area=square(200, 10, 220, 20)), [(15, -150)], [(15, 150)]),
    (Filter(area=square(**WORLD)), [(90, 0), (-90, 5), (0, 180), (0, -180), (12, 34)], [(None, None)]),
    (Filter(area=DONUT), [(0, 0), (2, 2), (10, 5), (4, 5)], [(5, 5), (11, 5), (2, -2)]),
    (Filter(area={"type": "Feature", "properties": None, "geometry": DONUT}), [(2, 2)], [(5, 5)]),
    (Filter(box=(0, 0, 3, 3), area=DONUT, near=(2, 2, 100)), [(2, 2)], [(0.5, 0.5), (2, 3.5)]),
]


@pytest.mark.parametrize(("where", "inside", "outside"), INSIDE)
def test_points_in_and_out_of_areas(where: Filter, inside: list, outside: list) -> None:
    table = rows_at(*inside, *outside)
    assert where.mask(table).tolist() == [True] * len(inside) + [False] * len(outside)
    for latitude, longitude in inside:
        assert any(s <= latitude <= n and w <= longitude <= e for s, w, n, e in where.bounds())


def test_several_polygons_are_one_area() -> None:
    shapes = [square(0, 0, 2, 2), square(1, 1, 3, 3), square(20, 20, 21, 21)]
    collection = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": one} for one in shapes]}
    passed = Filter(area=collection).mask(rows_at((0.5, 0.5), (1.5, 1.5), (2.5, 2.5), (20.5, 20.5), (10, 10)))
    assert passed.tolist() == [True, True, True, True, False]


def test_circles_are_what_the_distance_says_and_boxes_hold_them() -> None:
    generator = np.random.default_rng(0)
    latitude = np.rad2deg(np.arcsin(generator.uniform(-1, 1, 5000)))
    longitude = generator.uniform(-180, 180, 5000)
    table = rows_at(*zip(latitude, longitude, strict=True))
    for number in range(200):
        centre = (generator.choice([generator.uniform(-90, 90), 89.9, -90, 0]), generator.choice([180, -179.9, 7]))
        radius_km = min(10 ** generator.uniform(1, 4.31), 20_015)
        expected = haversine_m(latitude, longitude, *centre) <= 1000 * radius_km
        passed = Filter(near=(*centre, radius_km)).mask(table)
        assert (passed == expected).all(), (number, centre, radius_km)


def test_times_without_a_zone_are_utc_and_rows_without_a_time_never_pass() -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
    table = rows_at(*[(0, 0)] * 4, times=[noon, noon + timedelta(milliseconds=1), noon - timedelta(hours=1), None])
    assert Filter(since=datetime(2024, 5, 1, 12)).mask(table).tolist() == [True, True, False, False]
    assert Filter(until=noon).mask(table).tolist() == [True, False, True, False]
    between = Filter(since=noon + timedelta(microseconds=1), until=datetime(2024, 5, 2))
    assert between.mask(table).tolist() == [False, True, False, False]
    east = timezone(timedelta(hours=2))
    assert Filter(since=datetime(2024, 5, 1, 14, tzinfo=east)) == Filter(since=noon)


def test_ids_and_platforms() -> None:
    table = rows_at(*[(None, None)] * 4)
    assert Filter(platforms=["drone"]).mask(table).tolist() == [False, True, False, True]
    assert Filter(platforms="drone", image_ids=("1", "2")).mask(table).tolist() == [False, True, False, False]
    assert Filter(place_ids=("place 0", "x")).mask(table).tolist() == [True, False, False, False]
    assert Filter().mask(table).all() and Filter().bounds() is None
    assert Filter(box=(0, 0, 1, 1)).mask(table.slice(0, 0)).shape == (0,)


def test_filters_compare_and_travel() -> None:
    where = Filter(area=DONUT, near=(2, 2, 100))
    assert Filter().is_empty and not where.is_empty and Filter(platforms=()).is_empty
    assert where == Filter(area=DONUT, near=(2.0, 2.0, 100.0)) and len({where, Filter(near=(2, 2, 100))}) == 2
    assert pickle.loads(pickle.dumps(where)) == where
    assert Filter(box=(0, 0, 1, 1), near=(50, 50, 10)).bounds() == []


REFUSED = [
    ({"box": (-91, 0, 0, 10)}, "not on the earth|beyond 90"),
    ({"box": (-122.5, 37.0, -122.0, 38.0)}, "swapped"),
    ({"box": (0, -181, 1, 0)}, "not on the earth"),
    ({"box": (2, 0, 1, 1)}, "south 2.0 is north of north 1.0"),
    ({"box": (0, 0, 1)}, "4 finite numbers"),
    ({"box": (0, 0, 1, float("nan"))}, "4 finite numbers"),
    ({"box": "0,0,1,1"}, "south, west, north, east"),
    ({"near": (-88.2, 400, 1)}, "not on the earth"),
    ({"near": (139.7, 35.7, 1)}, "swapped"),
    ({"near": (0, 0, 0)}, "radius of 0.0 km"),
    ({"near": (0, 0, -3)}, "radius"),
    ({"near": (0, 0, 20_016)}, "radius of 20016.0 km"),
    ({"near": (0, float("inf"), 3)}, "finite"),
    ({"near": (0, 1)}, "3 finite numbers"),
    ({"since": "2024-05-01"}, "no datetime"),
    ({"since": datetime(2024, 5, 2), "until": datetime(2024, 5, 1)}, "after until"),
    ({"since": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))}, "no UTC time"),
    ({"image_ids": (1,)}, "image_ids: 1 is not text"),
    ({"area": {"type": "Point", "coordinates": [0, 0]}}, "'Point' has no inside"),
    ({"area": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}, "no inside"),
    ({"area": "POLYGON((0 0))"}, "no GeoJSON object"),
    ({"area": {}}, "type None"),
    ({"area": {"type": "Feature", "geometry": None}}, "no GeoJSON object"),
    ({"area": {"type": "FeatureCollection", "features": []}}, "features"),
    ({"area": {"type": "Polygon", "coordinates": []}}, "coordinates of a Polygon"),
    ({"area": {"type": "Polygon", "coordinates": [[]]}}, "a ring"),
    ({"area": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]]}}, "not closed"),
    ({"area": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}}, "not closed"),
    ({"area": ring((0, 0), (10, 10), (10, 0), (0, 10))}, "crosses or touches itself"),
    ({"area": ring((0, 0), (1, 0), (2, 0))}, "crosses or touches itself"),
    ({"area": ring((0, 0), (1, 95), (2, 0))}, "swapped"),
    ({"area": ring((0, 0), (float("nan"), 1), (2, 0))}, "not finite"),
    ({"area": ring((0, 0), ("1", 1), (2, 0))}, "is no position"),
    ({"area": ring((500_000, 4_500_000), (500_100, 4_500_000), (500_000, 4_500_100))}, "not on the earth"),
    ({"area": square(179, -1, -179, 1)}, "edge jumps from longitude"),
    ({"area": square(-180, 0, 180, 10)}, "edge jumps"),
    ({"area": ring((-200, 0), (-20, 0), (160, 0), (170, 5), (20, 5), (-20, 5), (-200, 5))}, "wider than 360"),
    ({"area": {**DONUT, "crs": {"type": "name", "properties": {"name": "EPSG:3857"}}}}, "EPSG:3857"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_is_not_on_the_earth_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(GalleryError, match=message) as caught:
        Filter(**given)
    assert "\n" not in str(caught.value)


def test_the_names_of_wgs84_are_known() -> None:
    for name in ("urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:4326", "urn:ogc:def:crs:EPSG::4326"):
        assert Filter(area={**DONUT, "crs": {"type": "name", "properties": {"name": name}}}).bounds()
