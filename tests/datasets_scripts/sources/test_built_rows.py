"""Invariant: a built data set holds what its source's files say, packed or extracted, rendered or real; of a source
full of defects it holds nothing, or with the filters named, all but the defects."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from defect_tree import write_clean_tree, write_defect_tree
from geotext_layout import write_geotext_layout

from pemoe.datasets_scripts import load_source, open_reader
from pemoe.datasets_scripts.audit.audit import audit_rows
from pemoe.datasets_scripts.audit.defects import DEFECTS, Finding
from pemoe.datasets_scripts.audit.survey import Survey, survey_rows
from pemoe.datasets_scripts.builds.dataset import build_dataset
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.filters.filters import filter_names
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, SPLITS, DataError
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader
from pemoe.datasets_scripts.sources.parquet import ParquetReader

RAW = BuildPlan(refiner=None, sanitize=None, places_per_shard=7)
JSON_NAMES = {"train": "train.json", "test": "test_951_version.json"}
FILTERS = filter_names()
ERRORS = [name for name in FILTERS if DEFECTS[name].severity == "error"]
NO_FILTER = set(DEFECTS) - set(FILTERS)
STREAM = """
import hashlib, json, sys
sys.modules["pemoe"] = None  # to import it is an error from here on
import datasets
reported = {}
for config in ("all", "satellite", "drone", "ground"):
    for split, rows in datasets.load_dataset(sys.argv[1], config, streaming=True).items():
        rows = rows.cast_column("image", datasets.Image(decode=False))
        reported[f"{config} {split}"] = {
            row["image_id"]: [hashlib.sha256(row["image"]["bytes"]).hexdigest(), row["captions"]] for row in rows
        }
print(json.dumps(reported))
"""


def unpack(root: Path, extracted: Path) -> Path:
    """A copy of a tree with its archives opened."""
    shutil.copytree(root, extracted)
    for archive in sorted((extracted / "images").rglob("*.tar.gz")):
        with tarfile.open(archive) as opened:
            opened.extractall(archive.parent, filter="data")
        archive.unlink()
    return extracted


@pytest.fixture(scope="module", params=["twin", "real"])
def layouts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tree of archives, and the same extracted."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "real" and "PEMOE_REAL_CAMPUS" not in os.environ:
        pytest.skip("PEMOE_REAL_CAMPUS names no directory of real tiles")
    if request.param == "real":
        return Path(os.environ["PEMOE_REAL_CAMPUS"]), unpack(os.environ["PEMOE_REAL_CAMPUS"], directory / "extracted")
    campus = load_source("campus", train_places=10, test_places=4, size_px=32)
    packed = write_geotext_layout(campus, directory / "packed")
    return packed, write_geotext_layout(campus, directory / "extracted", archives=False)


def rows_in(reader: Any) -> list[dict]:
    return [row for split in SPLITS for row in reader.rows(split, reader.place_ids(split))]


def records_of(root: Path) -> dict[str, list[dict]]:
    return {split: json.loads((root / name).read_text(encoding="utf-8")) for split, name in JSON_NAMES.items()}


def platforms_reported(root: Path) -> dict[str, collections.Counter]:
    """Images per platform, by the names in the JSON alone."""
    reported = {}
    for split, records in records_of(root).items():
        names = (
            re.fullmatch(r"(\w+)/([^.]+)\.\w+", image_id).groups() for image_id in {r["image_id"] for r in records}
        )
        reported[split] = collections.Counter(
            "satellite" if stem == place else "drone" if re.fullmatch(r"image-\d+", stem) else "ground"
            for place, stem in names
        )
    return reported


def shards_of(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.parquet")}


def streamed(directory: Path, cache: Path) -> dict[str, dict]:
    """What `datasets` alone makes of a built directory, in a process that cannot import ours."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", STREAM, str(directory)]
    process = subprocess.run(command, env=environment, cwd=cache, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_archives_and_extracted_files_give_the_same_rows(layouts: tuple[Path, Path]) -> None:
    packed, extracted = (rows_in(GeoTextReader(root)) for root in layouts)
    assert packed == extracted and len(packed) > 50
    for row in extracted:
        folders = ("train",) if row["split"] == "train" else ("test/query", "test/gallery_no_train")
        files = [layouts[1] / "images" / folder / row["image_id"] for folder in folders]
        assert [row["image"]["bytes"]] == [path.read_bytes() for path in files if path.is_file()]


def test_what_is_built_is_what_the_files_say(layouts: tuple[Path, Path], tmp_path: Path) -> None:
    reported = [build_dataset(GeoTextReader(root), tmp_path / root.name, RAW) for root in layouts]
    assert reported[0]["counts"] == reported[1]["counts"]
    packed, extracted = (tmp_path / root.name for root in layouts)
    assert shards_of(packed) == shards_of(extracted)
    loaded = streamed(packed, tmp_path)
    expected: dict[str, dict] = {f"{name} {split}": {} for name in ("all", *PLATFORMS) for split in SPLITS}
    for row in rows_in(GeoTextReader(layouts[1])):
        for config in ("all", row["platform"]):
            digest = hashlib.sha256(row["image"]["bytes"]).hexdigest()
            expected[f"{config} {row['split']}"][row["image_id"]] = [digest, row["captions"]]
    assert loaded == expected
    for split, counts in platforms_reported(layouts[0]).items():
        assert {name: count["images"] for name, count in reported[0]["counts"][split].items()} == counts
        assert {name: len(loaded[f"{name} {split}"]) for name in PLATFORMS} == counts
        assert len(loaded[f"all {split}"]) == counts.total()


@pytest.fixture(scope="module")
def defects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[tuple[str, str]]]:
    """The clean tree, the one with a defect of every kind, and what was planted."""
    directory = tmp_path_factory.mktemp("defects")
    planted = write_defect_tree(directory / "planted")
    return write_clean_tree(directory / "clean"), directory / "planted", planted


def built(root: Path, output: Path, filters: list[str]) -> tuple[list[dict], dict]:
    """The rows of a build and what its filters say they did."""
    reported = build_dataset(open_reader("geotext1652", root, filters=filters), output, RAW)
    assert json.loads((output / "build.json").read_text(encoding="utf-8")) == reported
    return rows_in(ParquetReader(output)), reported["reports"]["filters"]


def found_in(rows: list[dict]) -> set[tuple[str, str | None]]:
    found: list[Finding] = []
    survey_rows(rows, Survey(found.append))
    return {(finding.kind, finding.image_id) for finding in found}


def as_stored(row: dict) -> dict:
    return {**FEATURES.encode_example(row), "regions": [region["text"] for region in row["regions"]]}


def ids_of(rows: list[dict]) -> set[tuple[str, str]]:
    return {(row["split"], row["image_id"]) for row in rows}


def test_defects_stop_a_build_that_has_no_filters(defects: tuple, tmp_path: Path) -> None:
    for filters in ([], [name for name in FILTERS if name not in ERRORS]):
        with pytest.raises(DataError) as error:
            build_dataset(
                open_reader("geotext1652", defects[1], filters=filters), tmp_path / "built", RAW, overwrite=True
            )
        assert "\n" not in str(error.value) and "(0003/0003.jpg): lacks caption" in str(error.value)
    assert not (tmp_path / "built").exists() and not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("missing", ERRORS)
def test_every_error_needs_its_own_filter(defects: tuple, tmp_path: Path, missing: str) -> None:
    with pytest.raises(DataError) as error:
        built(defects[1], tmp_path / "built", [name for name in ERRORS if name != missing])
    assert "\n" not in str(error.value) and not (tmp_path / "built").exists()
    culprits = [name for kind, name in defects[2] if kind == missing]
    assert any(name in str(error.value) for name in culprits)


def test_the_filters_of_errors_leave_no_error_and_all_else(defects: tuple, tmp_path: Path) -> None:
    clean, root, planted = defects
    rows, report = built(root, tmp_path / "built", ERRORS)
    assert not audit_rows(rows).has_errors
    images = {name: {"dropped": 1, "changed": 0} for name in ERRORS}
    assert report == {
        **images,
        "bad_bbox": {"dropped": 0, "changed": 1},
        "unsafe_archive": {"dropped": 4, "changed": 0},  # pictures of the place
        "broken_archive": {"dropped": 4, "changed": 0},
        "place_in_two_splits": {"dropped": 12, "changed": 0},  # records: three for each of four pictures
    }
    errors = {kind: name for kind, name in planted if kind in ERRORS}
    lost = {errors[kind] for kind in ("missing_image", "undecodable_image", "truncated_image")}
    places = {errors[kind] for kind in ("unsafe_archive", "broken_archive", "place_in_two_splits")}
    there = {(split, r["image_id"]) for split, records in records_of(root).items() for r in records} - {
        ("train", errors["bad_image_id"])
    }
    gone = {(s, name) for s, name in there if s == "train" and (name in lost or name.split("/")[0] in places)}
    assert ids_of(rows) == there - gone
    spoiled = {name for _, name in planted}
    before = {row["image_id"]: as_stored(row) for row in rows_in(GeoTextReader(clean))}
    after = {row["image_id"]: as_stored(row) for row in rows if row["image_id"] in before}
    assert len(after.keys() - spoiled) > 45
    assert all(after[name] == before[name] for name in after.keys() - spoiled)


def test_all_filters_leave_no_defect(defects: tuple, tmp_path: Path) -> None:
    _, root, planted = defects
    rows, report = built(root, tmp_path / "built", list(FILTERS))
    left = found_in(rows)
    assert {kind for kind, _ in left} - NO_FILTER == set()
    assert not {pair for pair in left & planted if pair[0] in FILTERS}
    assert not any(region["bbox"] is None for row in rows for region in row["regions"])
    idle = {name for name, done in report.items() if not done["dropped"] + done["changed"]}
    assert list(report) == list(FILTERS)
    assert idle == {"no_caption", "fixed_overlay"}  # a record without caption is an error; few places carry no mark
