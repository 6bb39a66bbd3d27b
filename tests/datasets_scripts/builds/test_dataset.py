"""Invariant: a build holds the source's rows once, refined and sanitized; killed and resumed it is the same, byte by
byte; it never takes files that changed, and never touches what it did not build."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import pytest
from geotext_layout import write_geotext_layout

from pemoe.datasets_scripts import load_source, open_reader
from pemoe.datasets_scripts.builds.dataset import build_dataset, partial_of
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.campus.reader import CampusReader
from pemoe.datasets_scripts.refine import refine_dataset
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.schema import PLATFORMS, DataError
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader
from pemoe.datasets_scripts.sources.parquet import ParquetReader
from pemoe.datasets_scripts.sources.readers import Reader

OPTIONS = {"train_places": 6, "test_places": 3, "size_px": 32}
PLAN = BuildPlan(places_per_shard=2)
BUILD = """
import sys
from pemoe.datasets_scripts.builds.dataset import build_dataset
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader
plan = BuildPlan(places_per_shard=2)
build_dataset(GeoTextReader(sys.argv[1]), sys.argv[2], plan, resume=True)
"""


def at_second_shard(reader: Reader, act: Callable[[], object]) -> Reader:
    """The reader, with something that happens when the first shard is written and the second one begun."""
    rows, asked = reader.rows, []

    def watched(split: str, place_ids: Sequence[str]) -> Iterator[dict]:
        asked.append(place_ids)
        if len(asked) == 2:
            act()
        return rows(split, place_ids)

    reader.rows = watched
    return reader


def build(output: Path, plan: BuildPlan = PLAN, **options: object) -> dict:
    return build_dataset(CampusReader(**OPTIONS), output, plan, **options)


def digest(directory: Path) -> dict[str, str]:
    """Every file by its bytes."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The campus in GeoText-1652's layout."""
    return write_geotext_layout(load_source("campus", **OPTIONS), tmp_path_factory.mktemp("tree") / "campus")


def test_a_build_is_the_source_refined(tmp_path):
    report = build(tmp_path / "built")
    source = refine_dataset(load_source("campus", **OPTIONS))
    for split in ("train", "test"):
        rows = datasets.load_dataset(str(tmp_path / "built"), "all", split=split, cache_dir=str(tmp_path / "cache"))
        expected = {row["image_id"]: row for row in source[split].cast_column("image", datasets.Image(decode=False))}
        loaded = {row["image_id"]: row for row in rows.cast_column("image", datasets.Image(decode=False))}
        assert loaded.keys() == expected.keys() and rows.num_rows == len(expected)
        for name, row in loaded.items():
            assert row["image"]["bytes"] == expected[name]["image"]["bytes"]
            assert row["captions"] == expected[name]["captions"]
            if split == "test" or PLATFORMS[row["platform"]] != "satellite":
                assert row["refined_captions"] == expected[name]["refined_captions"]
            elif any(not find_directions(text) for text in expected[name]["refined_captions"]):
                assert not any(find_directions(text) for text in row["refined_captions"])
        counts = {name: count["images"] for name, count in report["counts"][split].items()}
        assert sum(counts.values()) == rows.num_rows and list(counts) == list(PLATFORMS)
    assert report == json.loads((tmp_path / "built/build.json").read_text(encoding="utf-8"))
    assert not partial_of(tmp_path / "built").exists() and not (tmp_path / "built/.state").exists()


def test_counts_and_reports_add_up_over_shards(tmp_path):
    several, one = build(tmp_path / "several"), build(tmp_path / "one", BuildPlan(places_per_shard=1000))
    assert several["counts"] == one["counts"]
    assert several["counts"]["train"]["drone"]["places"] == OPTIONS["train_places"]
    for step in ("refine", "sanitize"):
        first, second = several["reports"][step], one["reports"][step]
        drop = {"examples"}
        assert {k: v for k, v in first.items() if k not in drop} == {k: v for k, v in second.items() if k not in drop}
    lengths = one["reports"]["refine"]["length_chars"]
    assert lengths["before"]["count"] == sum(count["captions"] for count in one["counts"]["train"].values())
    assert lengths["before"]["mean"] > lengths["after"]["mean"] > 0


def test_a_killed_build_is_gone_on_with(tree, tmp_path):
    whole = tmp_path / "whole"
    build_dataset(GeoTextReader(tree), whole, PLAN)
    rng, output = random.Random(0), tmp_path / "killed"
    command = [sys.executable, "-c", BUILD, str(tree), str(output)]
    kills = 0
    for _ in range(6):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        start, written = time.monotonic(), 0
        while process.poll() is None and time.monotonic() - start < 60:
            shards = len(list(partial_of(output).glob("*/*.parquet"))) if partial_of(output).exists() else 0
            if shards > written + rng.randrange(3):
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.wait()
        if output.exists():
            break
    assert kills > 0
    assert subprocess.run(command, check=False, capture_output=True).returncode in (0, 1)
    assert digest(output) == digest(whole)


def test_an_unfinished_build_needs_a_word(tree, tmp_path):
    output = tmp_path / "built"
    with pytest.raises(KeyboardInterrupt):
        build_dataset(at_second_shard(CampusReader(**OPTIONS), _interrupt), output, PLAN)
    assert partial_of(output).is_dir() and not output.exists()
    with pytest.raises(DataError, match="--resume goes on with it, --overwrite starts anew"):
        build(output)
    with pytest.raises(DataError, match="other files or options"):
        build_dataset(GeoTextReader(tree), output, PLAN, resume=True)
    build(output, resume=True)
    assert digest(output) == digest_of_fresh(tmp_path)


def _interrupt() -> None:
    raise KeyboardInterrupt


def digest_of_fresh(tmp_path: Path) -> dict[str, str]:
    build(tmp_path / "fresh")
    return digest(tmp_path / "fresh")


def test_overwrite_replaces_builds_alone(tmp_path):
    output = tmp_path / "built"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match="not empty"):
        build(output)
    with pytest.raises(DataError, match="no earlier build"):
        build(output, overwrite=True)
    (output / "thesis.txt").unlink()
    first = build(output)
    with pytest.raises(DataError, match="not empty"):
        build(output)
    again = build(output, BuildPlan(refiner=None, sanitize=None), overwrite=True)
    assert again["steps"] == ["stratify by platform", "write Parquet"] and first["steps"] != again["steps"]


def test_a_source_that_changes_is_not_gone_on_with(tree, tmp_path):
    copy, output = tmp_path / "copy", tmp_path / "built"
    write_geotext_layout(load_source("campus", **OPTIONS), copy, archives=False)
    with pytest.raises(KeyboardInterrupt):
        build_dataset(at_second_shard(GeoTextReader(copy), _interrupt), output, PLAN)
    picture = next((copy / "images/train").rglob("*.jpg"))
    os.utime(picture, ns=(0, 0))
    with pytest.raises(DataError, match="other files or options"):
        build_dataset(GeoTextReader(copy), output, PLAN, resume=True)


def test_a_fault_in_the_source_leaves_no_data_set(tree, tmp_path):
    copy, output = tmp_path / "copy", tmp_path / "built"
    write_geotext_layout(load_source("campus", **OPTIONS), copy, archives=False)
    next((copy / "images/test").rglob("*.jpeg")).write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be decoded"):
        build_dataset(GeoTextReader(copy), output, PLAN)
    assert not output.exists()


def test_bad_input_before_the_first_shard_leaves_nothing(tmp_path):
    root = write_geotext_layout(load_source("campus", **OPTIONS), tmp_path / "tree", archives=False)
    next((root / "images" / "train").rglob("*.jpeg")).write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be decoded"):
        build_dataset(GeoTextReader(root), tmp_path / "built", BuildPlan())
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_an_audit_that_refuses_leaves_nothing_and_one_that_agrees_is_asked_once(tmp_path):
    asked = []

    def refuse(reports: Path) -> dict:
        raise DataError("one error")

    def agree(reports: Path) -> dict:
        asked.append(reports)
        return {"defects": {}}

    with pytest.raises(DataError, match="one error"):
        build(tmp_path / "built", audit=refuse)
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        build_dataset(at_second_shard(CampusReader(**OPTIONS), _interrupt), tmp_path / "built", PLAN, audit=agree)
    report = build(tmp_path / "built", audit=agree, resume=True)
    assert report["reports"]["audit"] == {"defects": {}} and report["steps"][0] == "audit" and len(asked) == 1


def test_files_that_change_during_a_build_are_noticed(tmp_path):
    root = write_geotext_layout(load_source("campus", **OPTIONS), tmp_path / "tree", archives=False)
    picture = next((root / "images" / "test").rglob("*.jpeg"))
    reader = at_second_shard(GeoTextReader(root), lambda: os.utime(picture, (1, 1)))
    with pytest.raises(DataError, match="changed while it was read"):
        build_dataset(reader, tmp_path / "built", PLAN)
    assert not (tmp_path / "built").exists()


def test_an_overwrite_that_is_killed_leaves_one_build_whole(tmp_path, monkeypatch):
    """Killed between any two steps of the exchange, `--resume` or the old directory still gives a whole build."""
    build(tmp_path / "built")
    before = digest(tmp_path / "built")
    rename, renamed = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        if ".built" in f"{self.name} {Path(target).name}":
            renamed.append(self.name)
            if len(renamed) == stop_at:
                raise KeyboardInterrupt
        return rename(self, target)

    for stop_at in (1, 2):
        renamed.clear()
        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "built", overwrite=True)
        monkeypatch.setattr(Path, "rename", rename)
        assert len(renamed) == stop_at
        build(tmp_path / "built", resume=True, overwrite=True)
        assert digest(tmp_path / "built") == before
        assert [path.name for path in tmp_path.iterdir()] == ["built"]


def test_a_build_of_a_build_of_a_build_tells_all_that_was_done(tmp_path):
    build(tmp_path / "one")
    for source, output in (("one", "two"), ("two", "three")):
        report = build_dataset(ParquetReader(tmp_path / source), tmp_path / output, PLAN)
    first = json.loads((tmp_path / "one" / "build.json").read_text())
    assert report["built_from"]["built_from"] == {part: first[part] for part in ("steps", "options", "reports")}


def test_a_build_may_lie_inside_its_source(tmp_path):
    build(tmp_path / "one")
    reader = ParquetReader(tmp_path / "one")
    before = reader.fingerprint()
    build_dataset(reader, tmp_path / "one" / "refined", PLAN)
    assert reader.fingerprint() == before
    shard = next((tmp_path / "one" / "drone").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes() + b" ")
    assert reader.fingerprint() != before


def test_a_build_of_no_image_is_refused_and_leaves_nothing(tree, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tree.glob("*.json"):
        (bare / file.name).write_bytes(file.read_bytes())
    reader = open_reader("geotext1652", bare, filters=["missing_image"])
    with pytest.raises(DataError, match="no image is left"):
        build_dataset(reader, tmp_path / "built", PLAN)
    assert {path.name for path in tmp_path.iterdir()} == {"bare"}


def test_an_output_that_cannot_be_made_is_reported(tree, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"use another --output"):
        build_dataset(GeoTextReader(tree), tmp_path / "file" / "built", PLAN)


def test_reports_are_as_readable_as_the_rest(tmp_path):
    build(tmp_path / "built")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "built").rglob("*") if path.is_file()}
    assert len(modes) == 1


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pemoe.datasets_scripts.builds.dataset.ShardWriter.write", full)
    with pytest.raises(DataError, match=r"no space is left in .*; make room"):
        build(tmp_path / "built")
    assert not any(tmp_path.iterdir())
