"""Invariant: every format gives back the places' coordinates, null where there are none; nothing in a place's name
becomes markup, a formula or a terminal command."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree

import pytest

from pemoe.retrieval.locating.formats import FORMATS, WIDTH, csv_answer, csv_header, json_answer
from pemoe.retrieval.locating.results import NOT_HERE, UNKNOWN_ODDS, Evidence, LocatedPlace, LocateResult, SeenPicture

HOSTILE = ('=HYPERLINK("http://x")', "</name><script>alert(1)</script>&", "a\x1b[2Jb\x00", "+1, @x\n-2", "–" * 200)
WHERE = [(40.12345678, -88.2), (-33.9, 151.2), (None, None), (0.0, -180.0), (89.999, 179.9999999)]


def build_result(places: int = 5) -> LocateResult:
    seen = SeenPicture("a/1", "drone", 0.25, thumbnail=b"jpeg")
    located = [
        LocatedPlace(
            f"p{n}", HOSTILE[n], *WHERE[n], 0.5 - n / 10, 0.125 if n else None, ("satellite", "drone"), (seen,)
        )
        for n in range(places)
    ]
    said = Evidence("a hall", 0.5, 1.0)
    located = [LocatedPlace(**{**vars(one), "evidence": (said,)}) for one in located]
    verdict = UNKNOWN_ODDS if places else NOT_HERE
    return LocateResult(("=a hall", "<b>"), tuple(located), {"satellite": 0.25, "drone": 0.75}, verdict, None, 9)


def expected() -> list[tuple[float | None, float | None]]:
    return [(None, None) if a is None else (round(a, 7), round(b, 7)) for a, b in WHERE]


def test_geojson_gives_the_coordinates_back() -> None:
    content = json.loads(FORMATS["geojson"](build_result()))
    points = [one["geometry"]["coordinates"] if one["geometry"] else [None, None] for one in content["features"]]
    assert content["type"] == "FeatureCollection"
    assert [(latitude, longitude) for longitude, latitude in points] == expected()
    assert [one["properties"]["name"] for one in content["features"]] == list(HOSTILE)
    assert all(one["type"] == "Feature" for one in content["features"])


def test_kml_gives_the_coordinates_back_and_no_markup() -> None:
    text = FORMATS["kml"](build_result())
    root = ElementTree.fromstring(text)
    space = {"k": "http://www.opengis.net/kml/2.2"}
    marks = root.findall(".//k:Placemark", space)
    points = [one.findtext("k:Point/k:coordinates", namespaces=space) for one in marks]
    pairs = [tuple(map(float, one.split(",")))[::-1] if one else (None, None) for one in points]
    assert pairs == expected()
    assert marks[1].findtext("k:name", namespaces=space) == f"2. {HOSTILE[1]}"
    assert "<script" not in text and "\x1b" not in text and "\x00" not in text


def test_csv_gives_the_coordinates_back_and_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](build_result()))))
    pairs = [(row["latitude_deg"], row["longitude_deg"]) for row in rows]
    assert [tuple(float(one) if one else None for one in pair) for pair in pairs] == expected()
    assert not any(row[name].startswith(("=", "+", "-", "@")) for row in rows for name in ("name", "place_id"))
    assert rows[0]["name"] == "'" + HOSTILE[0]
    assert float(rows[1]["probability"]) == 0.125 and rows[0]["probability"] == ""


def test_html_holds_every_place_and_no_markup_of_theirs() -> None:
    page = FORMATS["html"](build_result())
    assert all(f"p{n}" in page for n in range(5))
    assert "<script>alert" not in page


@pytest.mark.parametrize("places", [0, 5])
def test_the_table_fits_a_terminal(places: int) -> None:
    text = FORMATS["table"](build_result(places))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text and "\x00" not in text
    assert ("–" in text) == bool(places)


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_without_places_is_one(name: str) -> None:
    text = FORMATS[name](build_result(0))
    assert text.strip()
    if name in ("json", "geojson"):
        assert not json.loads(text)["places" if name == "json" else "features"]


def test_answers_to_files_are_lines() -> None:
    result = build_result()
    one = json.loads(json_answer("7", result))
    assert json_answer("7", result).count("\n") == 1 and one["id"] == "7" and len(one["places"]) == 5
    rows = list(
        csv.DictReader(io.StringIO(csv_header() + csv_answer("=7", result) + csv_answer("8", build_result(0))))
    )
    assert [row["id"] for row in rows] == ["'=7"] * 5 + ["8"]
    assert rows[-1]["verdict"] == NOT_HERE and rows[-1]["place_id"] == "" and rows[0]["texts"].startswith("'=")
