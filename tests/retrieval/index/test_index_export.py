"""Invariant: what leaves an index is what it holds: every row and vector in Parquet, every place in GeoJSON with its
longitude first and null where unknown; figures and removals are exact; a file is written whole or not at all."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.export import describe_index, export_index, notes_of, remove_pictures
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.ingest import IngestCounts
from pemoe.retrieval.index.records import VECTOR, table_of, to_vectors

MODEL = ModelIdentity("me/pemoe", "c" * 40, "0" * 64, ("satellite", "drone"), 4)
YEAR = {"a1": 2020, "a2": 2024, "b1": 2022}
ROWS = [  # image, place, platform, latitude, longitude
    ("b1", "b", "drone", 10.0, 179.0),
    ("a1", "a", "satellite", -33.25, -70.5),
    ("a2", "a", "drone", -33.25, -70.5),
    ("b2", "b", "drone", 10.0, -179.0),
    ("c1", "c", "unknown", None, None),
]


@pytest.fixture
def index(tmp_path: Path) -> GalleryIndex:
    made = GalleryIndex.create(str(tmp_path / "a.index"), MODEL)
    names = ("image_id", "place_id", "platform", "latitude_deg", "longitude_deg")
    rows = [{**dict(zip(names, row, strict=True)), "name": f"Hall {row[1]}"} for row in ROWS]
    for row in rows:
        year = YEAR.get(row["image_id"])
        row["captured_at"] = year and datetime(year, 6, 1, tzinfo=timezone.utc)
    made.add(table_of(rows, np.random.default_rng(0).normal(size=(5, 8))))
    made.set_calibration({"scale": 3.5})
    return made


def test_parquet_holds_every_row_vector_and_the_model(index: GalleryIndex, tmp_path: Path) -> None:
    assert export_index(index, tmp_path / "a.parquet", with_vectors=True) == 5
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["image_id"].to_pylist() == ["a1", "a2", "b1", "b2", "c1"]
    held = index.read(["image_id", VECTOR])
    order = np.argsort(held["image_id"].to_pylist())
    assert table.schema.field(VECTOR).type.list_size == 8
    assert np.array_equal(to_vectors(table[VECTOR]), to_vectors(held[VECTOR])[order])
    about = json.loads(table.schema.metadata[b"pemoe"])
    assert ModelIdentity.from_json(about["model"]) == MODEL and about["calibration"] == {"scale": 3.5}
    export_index(index, tmp_path / "b.parquet")
    assert VECTOR not in pq.read_schema(tmp_path / "b.parquet").names


def test_geojson_has_a_point_per_place_longitude_first(index: GalleryIndex, tmp_path: Path) -> None:
    assert export_index(index, tmp_path / "a.geojson") == 3
    content = json.loads((tmp_path / "a.geojson").read_text())
    places = {one["id"]: one for one in content["features"]}
    assert content["type"] == "FeatureCollection" and {one["type"] for one in places.values()} == {"Feature"}
    assert places["a"]["geometry"] == {"type": "Point", "coordinates": [-70.5, -33.25]}
    longitude, latitude = places["b"]["geometry"]["coordinates"]
    assert abs(longitude) == pytest.approx(180) and latitude == pytest.approx(
        10, abs=0.01
    )  # not at 0, across the globe
    assert places["c"]["geometry"] is None
    assert places["a"]["properties"] == {
        "place_id": "a",
        "name": "Hall a",
        "pictures": 2,
        "platforms": ["satellite", "drone"],
        "captured_first": "2020-06-01T00:00:00+00:00",
        "captured_last": "2024-06-01T00:00:00+00:00",
    }


def test_a_file_is_whole_or_as_it_was(index: GalleryIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("mine")
    with pytest.raises(GalleryError, match="is there already; use --overwrite"):
        export_index(index, path)

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(GalleryError, match=r"cannot be written .No space left"):
        export_index(index, path, overwrite=True)
    assert path.read_text() == "mine" and {one.name for one in tmp_path.iterdir()} == {"a.parquet", "a.index"}
    for name, vectors in (("a.csv", False), ("a.geojson", True)):
        with pytest.raises(GalleryError, match=r"\.parquet"):
            export_index(index, tmp_path / name, with_vectors=vectors)


def test_figures_are_those_of_the_rows(index: GalleryIndex, tmp_path: Path) -> None:
    facts = describe_index(index, str(tmp_path / "a.index"))
    assert (facts["pictures"], facts["places"]) == (5, 3)
    assert facts["platforms"] == {"satellite": 1, "drone": 3, "unknown": 1}
    assert (facts["with_coordinates"], facts["without_coordinates"]) == (4, 1)
    assert facts["box"] == [-33.25, 179.0, 10.0, -70.5]  # over the antimeridian, not round the other side
    assert facts["captured"] == ["2020-06-01T00:00:00+00:00", "2024-06-01T00:00:00+00:00"]
    assert facts["is_exact"] and facts["size_mb"] > 0 and json.loads(json.dumps(facts)) == facts
    assert facts["wide_places"] == 1  # b, 219 km over the antimeridian
    lines = notes_of(facts, [], IngestCounts(broken={"x.jpg": "cut"}))
    assert lines[0] == "1 of 5 pictures have no coordinates: they are found but not on the map"
    assert "1 places have pictures over 1 km apart" in lines[1]
    assert "no known platform" in lines[2] and lines[-1] == "  x.jpg: cut"


def test_an_empty_index_has_figures_too(tmp_path: Path) -> None:
    facts = describe_index(GalleryIndex.create(str(tmp_path / "a.index"), MODEL), str(tmp_path / "a.index"))
    assert (facts["pictures"], facts["box"], facts["captured"], facts["wide_places"]) == (0, None, None, 0)


def test_a_picture_is_older_than_what_follows_it_by_less_than_a_millisecond(index: GalleryIndex) -> None:
    assert remove_pictures(index, platforms=["satellite"], older_than="2020-06-01T00:00:00.000500") == 1


def test_what_is_removed_is_what_all_options_hold_for(index: GalleryIndex) -> None:
    assert remove_pictures(index, older_than="2022-06-01") == 1  # the one of that very moment stays
    assert remove_pictures(index, platforms=["drone"], older_than="2023-01-01T00:00:00Z") == 1
    assert remove_pictures(index, image_ids=["c1"], place_ids=["a"]) == 0
    assert sorted(index.read()["image_id"].to_pylist()) == ["a2", "b2", "c1"]
    for options, word in (
        ({"image_ids": ["c1", "zz"]}, "no image_id 'zz'"),
        ({"place_ids": ["zz"]}, "no place_id 'zz'"),
        ({"older_than": "yesterday"}, "is no date"),
        ({"older_than": "0001-01-01"}, "is no date"),  # nothing lies before it
        ({}, "say what"),
    ):
        with pytest.raises(GalleryError, match=word):
            remove_pictures(index, **options)
    assert index.count() == 3
