"""Invariant: every picture of a source comes once, in the same order each time, with its own bytes, its position and
its time; what is missing or wrong is counted or refused by name, never guessed."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from tiny_data import build_split
from tiny_gallery import write_photo, write_photos

from pemoe.common.errors import InputError
from pemoe.datasets_scripts.builds.rows import load_source
from pemoe.retrieval.index import pictures as pictures_module
from pemoe.retrieval.index.pictures import read_pictures


def facts_by_id(root: Path | str, split: str = "all", **options: object) -> dict[str, dict]:
    return {one.facts["image_id"]: one.facts for one in read_pictures(str(root), split, **options)}


def test_photos_come_with_their_gps_in_all_quarters_and_their_time(tmp_path: Path) -> None:
    positions = write_photos(tmp_path / "photos", 12)
    assert len({(latitude > 0, longitude > 0) for latitude, longitude in positions.values()}) == 4
    pictures = read_pictures(str(tmp_path / "photos"))
    assert pictures.count() == 12
    for one in pictures:
        name = one.facts["image_id"]
        data = (tmp_path / "photos" / name).read_bytes()
        assert one.data == data and one.facts["content_sha256"] == hashlib.sha256(data).hexdigest()
        assert one.facts["latitude_deg"] == pytest.approx(positions[name][0], abs=1e-6)
        assert one.facts["longitude_deg"] == pytest.approx(positions[name][1], abs=1e-6)
        assert one.facts["captured_at"] == datetime(2024, 6, 1, 10, int(name[4:8]), tzinfo=timezone.utc)
        assert one.facts["path"] == str(tmp_path / "photos" / name)
    assert [one.facts for one in pictures] == [one.facts for one in pictures]


def test_named_coordinates_count_more_than_gps_and_bring_names(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "0007" / "a.jpg", 1, (10.0, 20.0))
    write_photo(tmp_path / "photos" / "0008" / "b.jpg", 2, (10.0, 20.0))
    feature = {
        "type": "Feature",
        "properties": {"place_id": "0007", "name": "Old Arena"},
        "geometry": {"type": "Point", "coordinates": [-70.5, -33.25]},
    }
    places = tmp_path / "places.geojson"
    places.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    found = facts_by_id(tmp_path / "photos", coordinates=str(places), platform="drone")
    one, other = found["0007/a.jpg"], found["0008/b.jpg"]
    assert (one["name"], one["latitude_deg"], one["longitude_deg"]) == ("Old Arena", -33.25, -70.5)
    assert (other["name"], other["platform"]) == ("0008", "drone")
    assert other["latitude_deg"] == pytest.approx(10)
    notes = read_pictures(str(tmp_path / "photos"), coordinates=str(places)).notes()
    assert any(note.startswith(f"1 of 2 places are in {places}") for note in notes)
    names = tmp_path / "names.txt"
    names.write_text("0008 Library\n")
    assert facts_by_id(tmp_path / "photos", names=str(names))["0008/b.jpg"]["name"] == "Library"
    feature["properties"]["place_id"] = "zz"
    places.write_text(json.dumps(feature))
    with pytest.raises(InputError, match="none of 2 places is in"):
        read_pictures(str(tmp_path / "photos"), coordinates=str(places))


@pytest.mark.parametrize("name", ["places.csv", "places.json"])
def test_a_file_of_coordinates_may_lie_among_the_photos(tmp_path: Path, name: str) -> None:
    write_photo(tmp_path / "0007" / "a.jpg", 1)
    text = (
        "place_id,lat,lon\n0007,1.5,-2.5\n" if name.endswith("csv") else '[{"place": "0007", "lat": 1.5, "lon": -2.5}]'
    )
    (tmp_path / name).write_text(text)
    (facts,) = facts_by_id(tmp_path, coordinates=str(tmp_path / name)).values()
    assert (facts["latitude_deg"], facts["longitude_deg"]) == (1.5, -2.5)


def test_a_prefix_goes_before_pictures_and_places(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "0007" / "a.jpg", 1)
    (facts,) = facts_by_id(tmp_path / "photos", prefix="x-").values()
    assert (facts["image_id"], facts["place_id"], facts["name"]) == ("x-0007/a.jpg", "x-0007", "0007")


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "a.jpg", 1)
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0x9003] = "2024:06:01 12:00:00"
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "b.jpg", exif=tags)
    tags.get_ifd(0x8769)[0x9003] = "2024:99:01 12:00:00"
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "c.jpg", exif=tags)
    (tmp_path / "photos" / "d.txt").touch()
    pictures = read_pictures(str(tmp_path / "photos"))
    found = {one.facts["image_id"]: one.facts for one in pictures}
    assert {one["platform"] for one in found.values()} == {"unknown"}
    assert found["a.jpg"]["latitude_deg"] is None and found["c.jpg"]["captured_at"] is None
    said = "\n".join(pictures.notes())
    for words in (
        "1 files are no images",
        "1 pictures have an EXIF time that is none",
        "1 pictures have a time without",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "val"}, "--split val: use one of all, train, test"),
        ({"split": "train"}, "has no pictures in the split train"),
        ({"coordinates": "none.csv"}, "none.csv do not exist"),
        ({"phase": 1}, "has no option --phase"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(tmp_path: Path, options: dict, words: str) -> None:
    write_photo(tmp_path / "photos" / "a.jpg", 1)
    with pytest.raises(InputError, match=words):
        read_pictures(str(tmp_path / "photos"), **options)


def test_heic_is_one_line(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg", 1)
    (tmp_path / "d.heic").touch()
    with pytest.raises(InputError, match=r"'d.heic' in .* is HEIC, which is not read; save it as JPEG"):
        read_pictures(str(tmp_path))


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images") as error:
        read_pictures(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_geotiff_lies_at_its_centre(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    pixels = np.random.default_rng(0).integers(0, 255, (3, 20, 40), dtype=np.uint8)
    shape = {"width": 40, "height": 20, "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    (tmp_path / "tiles").mkdir()
    path = tmp_path / "tiles" / "t1.tif"
    with rasterio.open(path, "w", driver="GTiff", transform=from_origin(-70, -33, 0.01, 0.01), **shape) as tile:
        tile.write(pixels)
    (facts,) = facts_by_id(tmp_path / "tiles", platform="satellite").values()
    assert (facts["latitude_deg"], facts["longitude_deg"]) == pytest.approx((-33.1, -69.8))


def test_the_campus_streams_the_rows_that_it_loads() -> None:
    rows = load_source("campus", train_places=2, test_places=1, workers=1)
    options = {"train_places": 2, "test_places": 1}
    pictures = list(read_pictures("campus", **options))
    loaded = [
        row for split in ("train", "test") for row in rows[split].cast_column("image", datasets.Image(decode=False))
    ]
    assert [one.data for one in pictures] == [row["image"]["bytes"] for row in loaded]
    assert [one.facts["latitude_deg"] for one in pictures] == [row["latitude_deg"] for row in loaded]
    assert read_pictures("campus", **options).count() == len(pictures)


def test_a_data_set_on_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = build_split(2)
    asked = []

    def load_dataset(*arguments: object, **options: object) -> datasets.IterableDatasetDict:
        asked.append((arguments, options))
        return datasets.IterableDatasetDict({"test": rows.to_iterable_dataset()})

    monkeypatch.setattr(pictures_module.datasets, "load_dataset", load_dataset)
    pictures = list(read_pictures("me/campus"))
    assert asked == [(("me/campus", "all"), {"streaming": True})]
    stored = rows.cast_column("image", datasets.Image(decode=False))
    assert [one.data for one in pictures] == [row["image"]["bytes"] for row in stored]
    assert {one.facts["platform"] for one in pictures} == {"satellite", "drone", "ground"}
