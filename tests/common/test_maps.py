"""Invariant: a point's pin stands where its coordinates are on the map's own graticule, on both sides of the
antimeridian and at the poles; one without coordinates has no pin; the map escapes what it shows and loads nothing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pemoe.common.geodesy import haversine_m
from pemoe.common.maps import COASTLINE, MapPoint, View, draw_map, fit_view, read_coastline

CITY = [(40.1, -88.2), (40.102, -88.199), (40.098, -88.205)]
FIJI = [(-17.0, 179.2), (-16.5, -179.5), (-18.0, 178.0)]
WORLD = [(40.1, -88.2), (-33.9, 151.2), (51.5, 0.0), (-34.6, -58.4)]
POLES, SOUTH = [(90.0, 0.0), (89.9, -170.0)], [(-90.0, 10.0)]
SETS = {
    "city": CITY,
    "fiji": FIJI,
    "world": WORLD,
    "poles": POLES,
    "south pole": [(-90.0, 10.0)],
    "one": [(0.0, 180.0)],
}


def view_of(svg: str) -> View:
    """The view as the map itself states it, which is what a page's script reads."""
    west, north, per_lon, per_lat = (
        float(re.search(rf'data-{name}="([^"]+)"', svg)[1]) for name in ("west", "north", "px-per-lon", "px-per-lat")
    )
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    return View(west, north, per_lon, per_lat, width, height)


def dots_of(svg: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair)) for pair in re.findall(r'class="dot" cx="([^"]+)" cy="([^"]+)"', svg)]


@pytest.mark.parametrize("name", SETS)
def test_pins_stand_at_their_coordinates(name: str) -> None:
    places = SETS[name]
    svg = draw_map([MapPoint(rank, f"place {rank}", *where) for rank, where in enumerate(places, 1)])
    view, dots = view_of(svg), dots_of(svg)
    assert len(dots) == len(places)
    px_m = np.pi / 180 * 6_371_008.8 / view.px_per_lat
    for (x, y), (latitude, longitude) in zip(dots, places, strict=True):
        assert 0 < x < view.width_px and 0 < y < view.height_px
        assert haversine_m(latitude, longitude, *view.to_degrees(x, y)) < 0.2 * px_m


def test_the_projection_goes_there_and_back() -> None:
    rng = np.random.default_rng(0)
    for places in SETS.values():
        view = fit_view(places)
        for x, y in rng.uniform((1, 1), (view.width_px - 1, view.height_px - 1), (20, 2)):
            assert view.to_px(*view.to_degrees(x, y)) == pytest.approx((x, y), abs=1e-6)


def test_places_on_both_sides_of_the_antimeridian_lie_side_by_side() -> None:
    view = fit_view(FIJI)
    (first, _), (second, _), (third, _) = (view.to_px(*where) for where in FIJI)
    assert third < first < second and view.width_px / view.px_per_lon < 6
    svg = draw_map([], area=(-20.0, 176.0, -14.0, -178.0))
    box = {name: float(re.search(rf'class="area"[^>]* {name}="([^"]+)"', svg)[1]) for name in ("x", "width")}
    view = view_of(svg)
    assert view.to_degrees(box["x"], 0)[1] == pytest.approx(176, abs=0.02)
    assert view.to_degrees(box["x"] + box["width"], 0)[1] == pytest.approx(-178, abs=0.02)


@pytest.mark.parametrize("area", [(-60.0, -170.0, 60.0, 170.0), (-90.0, -180.0, 90.0, 180.0), (0.0, 10.0, 1.0, 200.5)])
def test_a_wide_box_is_shown_whole(area: tuple[float, float, float, float]) -> None:
    svg = draw_map([], area=area)
    x, width = (float(re.search(rf'class="area"[^>]* {name}="([^"]+)"', svg)[1]) for name in ("x", "width"))
    view = view_of(svg)
    assert width / view.px_per_lon == pytest.approx(area[3] - area[1], abs=0.5)
    assert x >= -0.2 and x + width <= view.width_px + 0.2


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    for name in ("city", "fiji", "world"):
        svg = draw_map([MapPoint(1, "", *where) for where in SETS[name]])
        long_px, number, unit = re.search(r'class="scale"><path d="M[^"]*h([\d.]+)v.*?>([\d.]+) (k?m)<', svg).groups()
        view = view_of(svg)
        middle = view.height_px / 2
        length_m = haversine_m(*view.to_degrees(100, middle), *view.to_degrees(100 + float(long_px), middle))
        # along the parallel, which is longer than the great circle
        assert float(length_m) == pytest.approx(float(number) * (1000 if unit == "km" else 1), rel=0.05)


def test_numbers_of_one_spot_stand_apart_in_the_order_of_ranks() -> None:
    svg = draw_map([MapPoint(rank, "tower", -33.86, 151.2) for rank in (3, 1, 2, 5, 4, 6, 7, 8)])
    heads = np.array(re.findall(r'class="head" cx="([^"]+)" cy="([^"]+)"', svg), dtype=float)
    distances = np.linalg.norm(heads[:, None] - heads[None], axis=-1) + 1e6 * np.eye(len(heads))
    assert distances.min() >= 2 * 19 - 0.2
    assert re.findall(r'href="#place-(\d+)"', svg) == [str(rank) for rank in range(1, 9)]


def test_a_place_without_coordinates_is_counted_not_drawn() -> None:
    svg = draw_map([MapPoint(1, "a", 40.0, -88.0), MapPoint(2, "b", None, None), MapPoint(3, "c", 40.0, None)])
    assert len(dots_of(svg)) == 1 and "2 without coordinates" in svg
    nothing = draw_map([MapPoint(1, "a", None, None)])
    assert dots_of(nothing) == [] and "1 without coordinates" in nothing
    extent = view_of(draw_map([], extent=(40.0, -89.0, 41.0, -88.0)))
    assert extent.south_deg < 40 < 41 < extent.north_deg < 42 and extent.west_deg < -89 < -88 < extent.east_deg < -86


def test_the_map_escapes_and_loads_nothing() -> None:
    svg = draw_map([MapPoint(1, '"><script>alert(1)</script>', 40.0, -88.0)])
    root = ElementTree.fromstring(svg)
    assert not [one for one in root.iter() if one.tag.endswith("script")]
    assert re.findall(r"https?://[^\"']*", svg) == ["http://www.w3.org/2000/svg"] and "<image" not in svg
    assert 'class="land"' not in svg, "a coast drawn for the whole Earth would mislead in a town"


def test_tiles_lie_where_web_mercator_has_them() -> None:
    svg = draw_map(
        [MapPoint(1, "a", *CITY[0]), MapPoint(2, "b", *CITY[1])], tiles='http://t/{z}/{x}/{y}.png?"', attribution="© t"
    )
    view, images = view_of(svg), re.findall(r'<image [^>]*x="([^"]+)" y="([^"]+)" [^>]*/(\d+)/(\d+)/(\d+)\.png', svg)
    assert 1 <= len(images) <= 64 and "© t" in svg and '?"' not in svg
    for x, y, *numbers in images:
        level, column, row = map(int, numbers)
        latitude = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * row / 2**level))))
        assert view.to_px(latitude, column / 2**level * 360 - 180) == pytest.approx((float(x), float(y)), abs=0.05)
    assert "<image" in draw_map([MapPoint(1, "", *where) for where in WORLD], tiles="http://t/{z}/{x}/{y}")


def test_the_coast_is_cut_at_the_antimeridian_and_names_its_licence() -> None:
    rings = read_coastline()
    points = np.concatenate([np.asarray(ring) for ring in rings])
    assert len(rings) > 100 and np.abs(points[:, 0]).max() <= 180 and np.abs(points[:, 1]).max() <= 90
    for ring in rings:
        steps = np.abs(np.diff(np.asarray(ring)[:, 0]))
        assert steps.max() < 180 or abs(np.asarray(ring)[:, 1].min()) == 90, "a line across the whole map"
    text = COASTLINE.read_text()
    assert len(text) < 80_000 and "Permission to use, copy" in text and "Natural Earth" in text

    def is_land(longitude: float, latitude: float) -> bool:
        crossings = 0
        for ring in rings:
            for (x, y), (to_x, to_y) in zip(ring, ring[1:] + ring[:1], strict=True):
                if (y > latitude) != (to_y > latitude):
                    crossings += longitude < x + (latitude - y) / (to_y - y) * (to_x - x)
        return crossings % 2 == 1

    land = [(-88.2, 40.1), (2.3, 48.8), (133.9, -23.7), (0.0, -85.0), (-179.0, 67.0), (-55.0, -10.0)]
    sea = [(-30.0, 30.0), (-150.0, 0.0), (80.0, -30.0), (179.9, -40.0)]
    assert [is_land(*where) for where in land] == [True] * 6 and not any(is_land(*where) for where in sea)
