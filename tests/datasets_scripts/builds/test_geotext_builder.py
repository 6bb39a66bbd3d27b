"""Invariant: every config of the builder holds the reader's rows of its platforms, prepared or streamed; files that
changed are read anew."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from geotext_layout import write_geotext_layout

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.builds.geotext_builder import GeoText1652
from pemoe.datasets_scripts.refine import RuleRefiner
from pemoe.datasets_scripts.refine.rows import merge_near_duplicates
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, SPLITS, DataError
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader

OPTIONS = {"train_places": 3, "test_places": 2, "size_px": 32}
CONFIGS = [name + suffix for suffix in ("", "_refined") for name in ("all", *PLATFORMS)]


@pytest.fixture(scope="module")
def campus() -> datasets.DatasetDict:
    return load_source("campus", **OPTIONS)


@pytest.fixture(scope="module")
def packed(campus: datasets.DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives, which no test changes."""
    return write_geotext_layout(campus, tmp_path_factory.mktemp("packed") / "campus")


@pytest.fixture
def extracted(campus: datasets.DatasetDict, tmp_path: Path) -> Path:
    return write_geotext_layout(campus, tmp_path / "campus", archives=False)


def builder_of(root: Path, cache: Path, config: str = "all", **options: Any) -> GeoText1652:
    return GeoText1652(config_name=config, data_dir=str(root), cache_dir=str(cache), **options)


def raw(rows: datasets.Dataset | datasets.IterableDataset) -> list[dict]:
    return list(rows.cast_column("image", datasets.Image(decode=False)))


def prepared(builder: GeoText1652) -> dict[str, list[dict]]:
    builder.download_and_prepare()
    return {split: raw(builder.as_dataset(split=split)) for split in SPLITS}


def streamed(builder: GeoText1652) -> dict[str, list[dict]]:
    return {split: raw(builder.as_streaming_dataset(split=split)) for split in SPLITS}


def refined_by_hand(row: dict) -> list[str]:
    refiner = RuleRefiner()
    texts = [refiner.refine(caption, row["platform"]) for caption in dict.fromkeys(row["captions"])]
    return merge_near_duplicates(itertools.chain(*texts))


def expected_rows(root: Path, config: str, split: str) -> list[dict]:
    """What the reader gives, of the config's platforms, refined where the config says so; numbers as stored."""
    reader = GeoTextReader(root)
    kept = []
    for row in reader.rows(split, reader.place_ids(split)):
        if config.removesuffix("_refined") in ("all", row["platform"]):
            refined = refined_by_hand(row) if config.endswith("_refined") and split == "train" else []
            kept.append({**FEATURES.encode_example(row), "refined_captions": refined})
    return kept


def with_rounded_boxes(rows: list[dict]) -> list[dict]:
    """Boxes are stored in single precision."""

    def rounded(region: dict) -> dict:
        return {**region, "bbox": region["bbox"] and [round(value, 5) for value in region["bbox"]]}

    return [{**row, "regions": [rounded(region) for region in row["regions"]]} for row in rows]


def test_there_are_eight_configs() -> None:
    assert list(GeoText1652.builder_configs) == CONFIGS
    for name, config in GeoText1652.builder_configs.items():
        platform = name.removesuffix("_refined")
        assert config.platforms == (PLATFORMS if platform == "all" else (platform,))
        assert config.refined == name.endswith("_refined")


@pytest.mark.parametrize("config", CONFIGS)
def test_prepared_and_streamed_rows_are_the_readers(packed: Path, tmp_path: Path, config: str) -> None:
    builder = builder_of(packed, tmp_path, config)
    stored, passed = prepared(builder), streamed(builder)
    for split in SPLITS:
        assert builder.as_dataset(split=split).features == FEATURES
        assert builder.as_streaming_dataset(split=split).features == FEATURES
        for one, other in itertools.zip_longest(stored[split], passed[split]):
            assert one == other
        assert with_rounded_boxes(stored[split]) == with_rounded_boxes(expected_rows(packed, config, split))
        texts = [row["refined_captions"] for row in stored[split]]
        assert set(map(bool, texts)) == {split == "train" and config.endswith("_refined")}


def test_a_stream_reads_as_far_as_it_is_asked(extracted: Path, tmp_path: Path) -> None:
    last = sorted((extracted / "images/train").iterdir())[-1]
    next(last.iterdir()).write_bytes(b"no picture")
    builder = builder_of(extracted, tmp_path)
    rows = iter(builder.as_streaming_dataset(split="train"))
    first = next(rows)
    assert first["place_id"] != last.name and first["image"].size == (32, 32)
    with pytest.raises(DataError, match="cannot be decoded"):
        list(rows)


def test_a_fault_is_reported_in_the_words_of_the_reader(extracted: Path, tmp_path: Path) -> None:
    next((extracted / "images/test").rglob("*.jpg")).unlink()
    with pytest.raises(DataError) as error:
        load_source("geotext1652", extracted, cache_dir=tmp_path / "cache")
    assert "is in the JSON but neither in" in str(error.value) and "\n" not in str(error.value)
    drone = builder_of(extracted, tmp_path, "drone")  # pictures of other platforms are not asked for
    assert {row["platform"] for row in prepared(drone)["test"]} == {PLATFORMS.index("drone")}


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"config_name": "dron"}, r"'dron' not found.*'all', 'satellite', 'drone', 'ground', 'all_refined'"),
        ({"config_name": "drone", "data_dir": None}, "None is not a directory; give the one"),
        ({"data_dir": "nowhere"}, "nowhere is not a directory"),
        ({"filters": ["mof"]}, "there is no filter 'mof'; the filters are bad_record,"),
        ({"coordinates": "nowhere.kml"}, "nowhere.kml"),
        ({"platform": "drone"}, "doesn't have a 'platform' key"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(packed: Path, tmp_path: Path, options: dict, reported: str) -> None:
    with pytest.raises(ValueError, match=reported) as error:
        GeoText1652(**{"data_dir": str(packed), "cache_dir": str(tmp_path), **options})
    assert "\n" not in str(error.value)


def test_options_of_the_reader_are_kept_apart(packed: Path, tmp_path: Path) -> None:
    table = tmp_path / "places.csv"
    place = GeoTextReader(packed).place_ids("train")[0]
    table.write_text(f"place,lat,lon\n{place},40.5,-88.25\n", encoding="utf-8")
    plain = prepared(builder_of(packed, tmp_path))["train"]
    placed = prepared(builder_of(packed, tmp_path, coordinates=str(table)))["train"]
    cut = prepared(builder_of(packed, tmp_path, filters=["truncated_caption", "mof_joint"]))["train"]
    assert {(row["latitude_deg"], row["longitude_deg"]) for row in plain} == {(None, None)}
    assert {row["place_id"] for row in placed if row["latitude_deg"] == 40.5} == {place}
    assert any("[MOF]" in text for row in plain for text in row["captions"])
    assert not any("[MOF]" in text for row in cut for text in row["captions"])


def _touch(root: Path) -> None:
    picture = next((root / "images/train").rglob("*.jpg"))
    os.utime(picture, ns=(0, picture.stat().st_mtime_ns + 1))


def _repaint(root: Path) -> None:
    """Another picture of another size, as old as the one before."""
    first, *_, last = sorted((root / "images/train").rglob("image-*.jpeg"), key=lambda path: path.stat().st_size)
    before = last.stat()
    last.write_bytes(first.read_bytes())
    assert last.stat().st_size < before.st_size
    os.utime(last, ns=(before.st_atime_ns, before.st_mtime_ns))


def _recaption(root: Path) -> None:
    """As long as before, and as old."""
    path = root / "train.json"
    before = path.stat()
    records = json.loads(path.read_text(encoding="utf-8"))
    records[0]["caption"] = records[0]["caption"][::-1]
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [_touch, _repaint, _recaption])
def test_a_changed_source_is_read_anew(extracted: Path, tmp_path: Path, change: Any) -> None:
    before = builder_of(extracted, tmp_path / "cache", "all_refined")
    first = prepared(before)
    again = builder_of(extracted, tmp_path / "cache", "all_refined")
    assert again.cache_dir == before.cache_dir and prepared(again) == first
    change(extracted)
    after = builder_of(extracted, tmp_path / "cache", "all_refined")
    assert after.cache_dir != before.cache_dir
    fresh = prepared(after)
    assert fresh == streamed(after) and (fresh == first) == (change is _touch)
    assert fresh["test"] == first["test"]


def test_an_unchanged_source_is_not_read_again(extracted: Path, tmp_path: Path) -> None:
    def files() -> dict[str, int]:
        builder = builder_of(extracted, tmp_path / "cache")
        builder.download_and_prepare()
        return {path.name: path.stat().st_mtime_ns for path in Path(builder.cache_dir).glob("*.arrow")}

    first = files()
    assert len(first) == len(SPLITS) and files() == first
