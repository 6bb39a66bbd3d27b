"""Guards: whoever learns or measures gets the rows a build would hold, checked, refined and sanitized once for all
processes, and on the packaged campus the rows of every earlier figure."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from defect_tree import write_clean_tree, write_defect_tree
from PIL import Image

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.builds import prepare
from pemoe.datasets_scripts.builds.dataset import build_dataset
from pemoe.datasets_scripts.builds.plan import BuildPlan, make_plan, prepare_rows
from pemoe.datasets_scripts.builds.prepare import prepare_splits
from pemoe.datasets_scripts.campus import reader as campus_reader
from pemoe.datasets_scripts.campus.reader import CampusReader
from pemoe.datasets_scripts.refine import refine_dataset
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader

CAMPUS = {"train_places": 4, "test_places": 2, "size_px": 32}
AS_RENDERED = {"audit": False, "sanitize": "keep"}
AGAIN = """
import sys
from pemoe.datasets_scripts.builds import prepare

def never(*_, **__):
    raise AssertionError("done before")

prepare.audit_source = prepare.prepare_rows = never
splits = prepare.prepare_splits("geotext1652", sys.argv[1])
print(sum(map(len, splits["train"]["refined_captions"])))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clean_tree(tmp_path_factory.mktemp("tree") / "clean", train_places=4)


def bytes_of(rows: datasets.Dataset) -> list[dict]:
    return rows.cast_column("image", datasets.Image(decode=False)).to_list()


def write_photos(root: Path, captions: str = "a red hall") -> Path:
    """A drone picture and one of unknown platform, with captions, and one without."""
    root.mkdir()
    for name, colour in (("a.jpg", "red"), ("b.jpg", "green"), ("c.jpg", "blue")):
        Image.new("RGB", (80, 80), colour).save(root / name)
    lines = ["file_name,caption,platform,split", f"a.jpg,{captions},drone,train", "b.jpg,a pond,,train"]
    (root / "table.csv").write_text("\n".join([*lines, "c.jpg,,drone,train"]))
    return root


def test_the_campus_is_what_it_was_before_there_was_one_way_in() -> None:
    expected = refine_dataset(load_source("campus", **CAMPUS))
    splits = prepare_splits("campus", None, CAMPUS, **AS_RENDERED)
    assert list(splits) == ["train", "test"] and splits["train"].features == FEATURES
    for split, rows in splits.items():
        assert bytes_of(rows) == bytes_of(expected[split])


def test_the_rows_are_those_of_a_build(tree: Path, tmp_path: Path) -> None:
    build_dataset(GeoTextReader(tree), tmp_path / "built", BuildPlan())
    built = load_source("parquet", str(tmp_path / "built"))
    prepared, taken = prepare_splits("geotext1652", tree), prepare_splits("parquet", str(tmp_path / "built"))
    for split in ("train", "test"):
        expected = sorted(bytes_of(built[split]), key=lambda row: row["image_id"])
        assert sorted(bytes_of(prepared[split]), key=lambda row: row["image_id"]) == expected
        assert bytes_of(taken[split]) == bytes_of(built[split])
    rows = CampusReader(**CAMPUS).rows("train", ["0000", "0003"])
    texts = [text for row in prepare_rows(rows, BuildPlan()) for text in row["refined_captions"]]
    assert texts and not any(map(find_directions, (row["refined_captions"][0] for row in _satellite(prepared))))


def _satellite(splits: datasets.DatasetDict) -> list[dict]:
    rows = splits["train"].select_columns(["platform", "refined_captions"]).to_list()
    return [row for row in rows if PLATFORMS[row["platform"]] == "satellite"]


def test_another_process_audits_and_refines_nothing(tree: Path) -> None:
    texts = prepare_splits("geotext1652", tree)["train"]["refined_captions"]
    again = subprocess.run([sys.executable, "-c", AGAIN, str(tree)], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    assert int(again.stdout) == sum(map(len, texts)) > 0


def test_texts_of_other_steps_or_captions_are_not_mixed_up(tmp_path: Path) -> None:
    found = {}
    for number, captions in enumerate(("a red hall", "a large barn")):
        photos = write_photos(tmp_path / f"photos{number}", captions)
        for refine in ("rules", "none"):
            splits = prepare_splits("folder", photos, refine=refine, needed=("train",), optional=("test",))
            assert splits["train"]["image_id"][:] == ["a.jpg"] and splits["test"].num_rows == 0
            found[captions, refine] = splits["train"]["refined_captions"][0]
    assert found["a red hall", "none"] == found["a large barn", "none"] == []
    assert "red hall" in found["a red hall", "rules"][0] and "barn" in found["a large barn", "rules"][0]


def test_errors_stop_and_the_filters_they_name_mend_them(tmp_path: Path) -> None:
    write_defect_tree(tmp_path / "tree")
    with pytest.raises(DataError, match=r"has errors: .*--filter") as error:
        prepare_splits("geotext1652", tmp_path / "tree")
    assert "\n" not in str(error.value)
    filters = [word for word in str(error.value).replace(".", " ").split() if word in prepare.DEFECTS]
    filters = list(dict.fromkeys(filters))
    assert prepare_splits("geotext1652", tmp_path / "tree", {"filters": filters})["train"].num_rows > 0


def test_a_mended_file_is_looked_at_again(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    sound = (photos / "c.jpg").read_bytes()
    (photos / "c.jpg").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(DataError, match="undecodable_image"):
            prepare_splits("folder", photos, needed=("train",))
    (photos / "c.jpg").write_bytes(sound)
    assert prepare_splits("folder", photos, needed=("train",))["train"].num_rows == 1


def test_a_needed_split_without_rows_is_refused_and_an_optional_one_is_not(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    with pytest.raises(DataError, match="no test picture with a caption, so nothing can be measured"):
        prepare_splits("folder", photos)
    (photos / "table.csv").write_text("file_name,caption,split\na.jpg,a hall,train\nb.jpg,a pond,train\n")
    with pytest.raises(DataError, match="no training picture with a caption and a known platform"):
        prepare_splits("folder", photos, needed=("train",))


@pytest.mark.parametrize("words", [{"refine": "magic"}, {"sanitize": "magic"}])
def test_other_words_are_refused(words: dict[str, str]) -> None:
    with pytest.raises(DataError, match="magic"):
        prepare_splits("campus", None, CAMPUS, **words)


class Shout:
    """A refiner of one's own."""

    name = "shout"

    def refine(self, caption: str, platform: str) -> list[str]:
        return [caption.upper()]


def test_what_a_build_records_is_what_it_did(tmp_path: Path) -> None:
    for plan, name in ((BuildPlan(), "rules"), (BuildPlan(Shout()), "shout"), (make_plan("none"), None)):
        output = tmp_path / f"built_{name}"
        report = build_dataset(CampusReader(**CAMPUS), output, plan)
        assert report == json.loads((output / "build.json").read_text())
        assert report["options"]["refiner"] == name and ("refine by " + str(name) in report["steps"]) == bool(name)
        refined = report["reports"]["refine"]
        assert (refined and list(refined["by_refiner"])) == (name and [name])
        assert bool(report["counts"]["train"]["drone"]["refined_captions"]) == bool(name)


def test_only_what_is_asked_for_is_read(monkeypatch) -> None:
    rendered = []
    campus_rows = campus_reader.campus_rows
    monkeypatch.setattr(
        campus_reader, "campus_rows", lambda split, *a, **k: rendered.append(split) or campus_rows(split, *a, **k)
    )
    assert list(prepare_splits("campus", None, CAMPUS, **AS_RENDERED, needed=("test",))) == ["test"]
    assert rendered == ["test"]


@pytest.mark.parametrize("train", [None, "[]"])
def test_who_has_the_test_split_alone_can_measure(tree: Path, tmp_path: Path, train: str | None) -> None:
    root = tmp_path / "tree"
    shutil.copytree(tree, root)
    (root / "train.json").unlink()
    if train is not None:
        (root / "train.json").write_text(train)
    whole = prepare_splits("geotext1652", tree, needed=("test",))["test"]
    assert bytes_of(prepare_splits("geotext1652", root, needed=("test",))["test"]) == bytes_of(whole)
    with pytest.raises(DataError, match="no training picture"):
        prepare_splits("geotext1652", root)
