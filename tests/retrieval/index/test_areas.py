"""Invariant: places and areas as text, GeoJSON or KML are read right or refused in one line, never silently wrong."""

from __future__ import annotations

import json

import pytest

from pemoe.common.errors import InputError
from pemoe.retrieval.index.areas import parse_box, parse_position, read_area
from pemoe.retrieval.index.filters import Filter

CAMPUS, SYDNEY, LIMA = (40.11, -88.2), (-33.5, 151.25), (-12.05, -77.05)
POSITIONS = [
    (CAMPUS, ["40.11,-88.2", "40.11, -88.2", " 40.11 -88.2 ", "40.11;-88.2", "+40.11,−88.2", "40.11N,88.2W"]),
    (CAMPUS, ["40°06'36\"N 88°12'W", "40 6 36 N, 88 12 0 W", "N40.11 W88.2", "N40.11W88.2", "40.11N88.2W"]),
    (CAMPUS, ["N 40 06 36 W 88 12 00", "40°06′36″ -88°12′", "40:06:36,-88:12:00", "40° 6.6' N 88° 12' W"]),
    (CAMPUS, ["geo:40.11,-88.2", "GEO:40.11,-88.2,220;u=35", "geo:40.11,-88.2;crs=WGS84;u=3?z=17"]),
    (SYDNEY, ["-33.5,151.25", "33.5S 151.25E", "33°30'S, 151°15'E", "S33.5 E151.25"]),
    (LIMA, ["-12.05,-77.05", "12°03'S 77°03'W", "S12.05,W77.05"]),
    ((90.0, 0.0), ["90,0", "90N 0E"]),
    ((-90.0, -180.0), ["-90,-180", "90°S 180°W"]),
    ((-17.0, 180.0), ["-17,180", "17S,180E"]),
]
NO_POSITIONS = [
    ("40,11,-88,2", "write decimal points"),
    ("48,8566 2,3522", "write decimal points"),
    ("48,5 2", "may be two numbers"),
    ("-122.4,37.8", "swapped"),
    ("139.7 35.7", "swapped"),
    ("88.2W, 40.1N", "swapped"),
    ("W88.2 N40.1", "swapped"),
    ("40.1,181", "not on the earth"),
    ("91,100", "not on the earth"),
    ("90°30'N 0°E", "beyond 90"),
    ("-40.1N,88.2W", "sign and the letter N"),
    ("40.1", "not two angles; give latitude,longitude"),
    ("", "not two angles"),
    ("40.1,", "is not a number"),
    ("nan,nan", "is not a number"),
    ("1e999,0", "not finite"),
    ("Urbana, Illinois", "is not a number"),
    ("40 6 36 88 12 0", "not two angles"),
    ("geo:0,0?q=40.1,-88.2", "no geo URI"),
    ("geo:40.1,-88.2;crs=nad27", "no geo URI"),
    ("geo:40.1", "no geo URI"),
    ("1" * 1_000_000, "not two angles"),
]
NO_AREAS = [
    ("40.0,-88.3,40.2", "no file, no GeoJSON and no box"),
    ("40,0,-88,3,40,2,-88,1", "no file, no GeoJSON and no box"),
    ("nowhere.geojson", "no file, no GeoJSON and no box"),
    ("40.0,-88.3,forty,-88.1", "'forty' is not a number"),
    ("40.0,-88.3,-40.2S,-88.1", "sign and the letter S"),
    ("{broken", "not valid JSON"),
    ("{" * 100_000, "not valid JSON"),
    ("x" * 100_000, "no file"),
    ("a\0b", "no file"),
]
KML = """<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Placemark><Polygon>
<outerBoundaryIs><LinearRing><coordinates> 0,0,5 10,0,5 10,20,5 0,20,5 0,0,5
</coordinates></LinearRing></outerBoundaryIs>
<innerBoundaryIs><LinearRing><coordinates>4,4 6,4 6,6 4,6 4,4</coordinates></LinearRing></innerBoundaryIs>
</Polygon></Placemark></Document></kml>"""
TRIANGLE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 20], [0, 0]]]}


@pytest.mark.parametrize(("position", "texts"), POSITIONS)
def test_one_position_in_many_spellings(position, texts) -> None:
    for text in texts:
        assert parse_position(text) == pytest.approx(position, abs=1e-12), text


@pytest.mark.parametrize(("text", "message"), NO_POSITIONS)
def test_what_is_no_position_is_refused(text, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_position(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_boxes() -> None:
    assert parse_box("40.0, -88.3, 40.2, -88.1") == (40.0, -88.3, 40.2, -88.1)
    assert parse_box("20S,170E,10S,170W") == (-20.0, 170.0, -10.0, -170.0)
    assert read_area("-20,170,-10,-170") == {"box": (-20.0, 170.0, -10.0, -170.0)}
    with pytest.raises(InputError, match="north"):
        Filter(**read_area("41,-88,40,-87"))
    with pytest.raises(InputError, match="swapped"):
        Filter(**read_area("-122.5,37,-122,38"))


def test_files_and_inline_geojson_mean_the_same(tmp_path) -> None:
    (tmp_path / "a,b,c,d.geojson").write_text("\ufeff" + json.dumps(TRIANGLE), encoding="utf-8")
    found = [read_area(str(tmp_path / "a,b,c,d.geojson")), read_area(" " + json.dumps(TRIANGLE))]
    assert found == [{"area": TRIANGLE}] * 2
    (tmp_path / "a.kml").write_text(KML)
    assert read_area(str(tmp_path / "a.kml"))["area"]["coordinates"][0][1] == [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]
    assert Filter(**read_area(str(tmp_path / "a.kml"))).bounds()[0] == pytest.approx((0, 0, 20, 10))


def test_files_that_hold_no_area_are_refused(tmp_path) -> None:
    for name, content, message in (
        ("a.geojson", b"\xff\xfe", "cannot be read"),
        ("b.geojson", b"[1, 2", "not valid JSON"),
        ("c.kml", KML.replace("Polygon", "Path").encode(), "no polygon"),
        ("d.kml", KML.replace("10,0", "ten,0").encode(), "corners"),
        ("e.kml", b"<!DOCTYPE a><kml/>", "document type"),
        ("f.kmz", b"PK", "not valid KML"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_area(str(tmp_path / name))
    deep = '{"type":"GeometryCollection","geometries":[' * 330 + "]}" * 330
    with pytest.raises(InputError):
        Filter(**read_area(deep))


@pytest.mark.parametrize(("text", "message"), NO_AREAS)
def test_what_is_no_area_is_refused(text, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_area(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
