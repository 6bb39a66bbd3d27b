"""Invariant: with the filters named, what the audit finds is gone; nothing else and no test query is touched."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defect_tree import mark, stamp, write_clean_tree, write_defect_tree
from PIL import Image

from pemoe.datasets_scripts.audit.defects import DEFECTS, Finding
from pemoe.datasets_scripts.audit.survey import Survey, survey_rows, survey_tree
from pemoe.datasets_scripts.filters.filters import Filters, filter_names
from pemoe.datasets_scripts.schema import SPLITS, DataError
from pemoe.datasets_scripts.sources.geotext.files import ImageFiles
from pemoe.datasets_scripts.sources.geotext.names import platform_of
from pemoe.datasets_scripts.sources.geotext.records import find_json, iter_records
from pemoe.modeling_pemoe.pictures_pemoe import read_picture

FILTERS = filter_names()
ROW_FILTERS = filter_names(on_rows=True)
ERRORS = [name for name in FILTERS if DEFECTS[name].severity == "error"]
WARNINGS = [name for name in FILTERS if DEFECTS[name].severity == "warning"]


def kinds_in(root: Path) -> set[str]:
    found: list[Finding] = []
    survey_tree(root, Survey(found.append))
    return {finding.kind for finding in found}


def filtered_records(root: Path, filters: Filters) -> dict[str, list[Any]]:
    return {split: list(filters.records(iter_records(find_json(root, split)), split)) for split in SPLITS}


def rows_of(root: Path, records: list[Any], split: str, filters: Filters) -> Iterable[dict[str, Any]]:
    """A row for every image, its bytes None where they cannot be had, as a build would make it."""
    files = ImageFiles(root)
    for image in dict.fromkeys(record["image"] for record in records):
        folder, name = image.rsplit("/", 1)
        try:
            data = files.read(folder, {name}).get(name)
        except DataError as error:
            assert filters.skip_archive(error, 1)
            continue
        image_id = "/".join(image.split("/")[-2:])
        yield {
            **{"image": {"bytes": data, "path": None}, "image_id": image_id, "split": split, "regions": []},
            **{"platform": platform_of(image_id), "path": image},
        }


def rebuild(root: Path, out: Path, names: Iterable[str]) -> Filters:
    """The tree again, by way of the filters."""
    filters = Filters(names)
    filters.prepare(root)
    records = filtered_records(root, filters)
    for split in SPLITS:
        rows = [filters.image(row) for row in rows_of(root, records[split], split, filters)]
        kept = {row["path"]: row["image"]["bytes"] for row in rows if row is not None}
        for path, data in kept.items():
            (out / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            (out / "images" / path).write_bytes(data)
        left = [record for record in records[split] if record["image"] in kept]
        (out / find_json(root, split).name).write_text(json.dumps(left))
    return filters


@pytest.fixture(scope="module")
def defect_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("defects") / "tree"
    write_defect_tree(root)
    return root


def test_no_error_is_left_when_the_filters_of_errors_are_named(defect_tree: Path, tmp_path: Path) -> None:
    filters = rebuild(defect_tree, tmp_path, ERRORS)
    assert {kind for kind in kinds_in(tmp_path) if DEFECTS[kind].severity == "error"} == set()
    report = filters.report()
    json.dumps(report)
    assert all(report[name]["dropped"] + report[name]["changed"] > 0 for name in ERRORS)
    assert report["unsafe_archive"]["dropped"] == report["broken_archive"]["dropped"] == 4  # pictures of each place


def test_no_error_and_no_warning_is_left_when_all_their_filters_are_named(defect_tree: Path, tmp_path: Path) -> None:
    filters = rebuild(defect_tree, tmp_path, ERRORS + WARNINGS)
    left = {kind for kind in kinds_in(tmp_path) if DEFECTS[kind].severity != "note"}
    assert left == {"duplicate_caption"}  # equal captions of an image merge into one when rows are made
    idle = [name for name, done in filters.report().items() if not any(done.values())]
    assert idle == ["no_caption", "fixed_overlay"]  # a record without caption is an error


def test_without_filters_nothing_is_touched(defect_tree: Path) -> None:
    filters = Filters([])
    for split, records in filtered_records(defect_tree, filters).items():
        assert records == list(iter_records(find_json(defect_tree, split)))


def test_a_clean_tree_passes_the_filters_of_errors_and_warnings_unchanged(tmp_path: Path) -> None:
    root = write_clean_tree(tmp_path / "clean")
    filters = Filters(ERRORS + WARNINGS)
    filters.prepare(root)
    for split, records in filtered_records(root, filters).items():
        assert records == list(iter_records(find_json(root, split)))
    assert not any(done["dropped"] or done["changed"] for done in filters.report().values())


def test_each_filter_leaves_the_other_defects(defect_tree: Path) -> None:
    before = list(iter_records(find_json(defect_tree, "train")))
    for name in ("mof_joint", "truncated_caption", "stale_sentence", "bad_bbox", "rejected_words"):
        filters = Filters([name])
        after = list(filters.records(iter(copy.deepcopy(before)), "train"))
        changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1, name
        assert filters.report() == {name: {"dropped": 0, "changed": 1}}


def test_test_queries_are_never_edited() -> None:
    queries = ["Sorry, a hall [MOF] with a", "the sign reads 19", " ", "A hall. " * 30 + "On the le"]
    record = {"image_id": "0006/0006.jpg", "image": "test/query/0006/0006.jpg", "caption": queries}
    given = copy.deepcopy(record)
    names = [name for name in FILTERS if DEFECTS[name].compares is None]
    assert Filters(names).record(record, "test")["caption"] == [queries[0], queries[1], queries[3]]
    assert record == given  # copied, not changed in place
    assert Filters(["empty_caption"]).record({**record, "caption": [""]}, "test") is None


def test_a_caption_without_a_good_sentence_drops_its_record() -> None:
    record = {"image_id": "6/6.jpg", "image": "train/6/6.jpg", "caption": "Sorry, I cannot see the left side."}
    filters = Filters(["refused_caption"])
    assert filters.record(record, "train") is None
    assert filters.report()["refused_caption"] == {"dropped": 1, "changed": 0}


def test_a_second_pass_drops_no_first_record(defect_tree: Path) -> None:
    filters = Filters(["duplicate_record"])
    first = filtered_records(defect_tree, filters)["test"]
    assert filtered_records(defect_tree, filters)["test"] == first
    assert len(first) == len(list(iter_records(find_json(defect_tree, "test")))) - 1


def test_cropping_an_attribution_corrects_the_boxes() -> None:
    buffer = io.BytesIO()
    stamp(Image.new("RGB", (256, 256), (70, 110, 60))).save(buffer, "JPEG", quality=95)
    regions = [{"text": "A hall.", "bbox": [0.5, 0.5, 0.2, 0.5]}, {"text": "A road.", "bbox": [0.5, 0.97, 0.2, 0.04]}]
    row = {"image": {"bytes": buffer.getvalue(), "path": None}, "image_id": "6/image-01.jpeg", "split": "train"}
    kept = Filters(["burnt_in_attribution"]).image({**row, "platform": "drone", "regions": regions})
    image = Image.open(io.BytesIO(kept["image"]["bytes"]))
    assert image.format == "JPEG" and image.width == 256 and 205 < image.height < 240
    hall, road = (region["bbox"] for region in kept["regions"])
    assert hall == pytest.approx([0.5, 128 / image.height, 0.2, 128 / image.height])
    assert road is None
    assert regions[1]["bbox"] is not None


def test_a_mark_in_most_pictures_is_cropped_from_all(tmp_path: Path) -> None:
    root = write_clean_tree(tmp_path / "tree", train_places=24)
    for path in root.glob("images/**/image-*.jpeg"):
        with Image.open(path) as image:
            mark(image.copy()).save(path, quality=95)
    assert "fixed_overlay" in kinds_in(root)
    filters = rebuild(root, tmp_path / "out", ["fixed_overlay"])
    assert "fixed_overlay" not in kinds_in(tmp_path / "out")
    assert filters.report() == {"fixed_overlay": {"dropped": 0, "changed": 2 * 28}}
    with Image.open(next((tmp_path / "out").glob("images/train/*/image-01.jpeg"))) as image:
        assert image.width == 160 and 140 < image.height < 152


def test_a_transparent_picture_turns_white_below() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (80, 80), (255, 0, 0, 0)).save(buffer, "PNG")
    row = {"image": {"bytes": buffer.getvalue(), "path": None}, "image_id": "6/6.png", "split": "train"}
    kept = Filters(["non_rgb_image"]).image({**row, "platform": "ground", "regions": []})
    image = Image.open(io.BytesIO(kept["image"]["bytes"]))
    assert image.mode == "RGB" and image.getpixel((40, 40)) == (255, 255, 255)


def test_a_16_bit_picture_keeps_its_greys_as_the_processor_reads_them() -> None:
    buffer = io.BytesIO()
    deep = np.random.default_rng(0).integers(0, 65536, (80, 80), dtype=np.uint16)
    Image.fromarray(deep).save(buffer, "PNG")
    row = {"image": {"bytes": buffer.getvalue(), "path": None}, "image_id": "6/6.png", "split": "train"}
    kept = Filters(["non_rgb_image"]).image({**row, "platform": "ground", "regions": []})
    image = Image.open(io.BytesIO(kept["image"]["bytes"]))
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), np.asarray(read_picture(buffer.getvalue())))


def row(**changes: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    # no edge looks like a border
    pixels = np.random.default_rng(0).integers(60, 200, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    whole = {"image": {"bytes": buffer.getvalue(), "path": None}, "image_id": "a.png", "place_id": "a"}
    whole |= {"split": "train", "platform": "drone", "captions": ["A hall.", "A pond."], "regions": []}
    return {**whole, "latitude_deg": 1.0, "longitude_deg": 2.0, "source": "folder", **changes}


ROWS = {  # filter -> a row that it drops, one that it changes, and what is left of the captions of that
    "unknown_platform": (row(platform=None), None, []),
    "no_caption": (row(captions=[]), None, []),
    "empty_caption": (row(captions=[" ", ""]), row(captions=["A hall.", " "]), ["A hall."]),
    "mof_joint": (row(captions=["[MOF]"]), row(captions=["A hall.[MOF]A pond."]), ["A hall. A pond."]),
    "refused_caption": (row(captions=["Sorry."]), row(captions=["A hall.", "I am unable to see."]), ["A hall."]),
    "undecodable_image": (row(image={"bytes": b"junk", "path": None}), None, []),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_lose_what_a_filter_is_for_and_nothing_else(name: str) -> None:
    dropped, changed, left = ROWS[name]
    assert name in ROW_FILTERS and name in [found.kind for found in findings_of(dropped)]
    filters = Filters([name])
    assert filters.row(dropped) is None and filters.report() == {name: {"dropped": 1, "changed": 0}}
    if changed is not None:
        assert filters.row(changed) == {**changed, "captions": left}
        assert filters.report() == {name: {"dropped": 1, "changed": 1}}
    good = row()
    assert filters.row(good) == good
    assert Filters([]).row(dropped) == dropped


def findings_of(one: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    survey_rows([one], Survey(found.append))
    return found


def test_rows_of_test_keep_their_queries_and_galleries_their_pictures() -> None:
    filters = Filters(ROW_FILTERS)
    for captions in ([], ["Sorry, a hall [MOF] with a"]):
        given = row(split="test", captions=captions)
        assert filters.row(given) == given
    assert not any(done["dropped"] or done["changed"] for done in filters.report().values())


def test_unknown_and_unprepared_filters_are_refused() -> None:
    with pytest.raises(DataError, match="there is no filter 'blur'; the filters are bad_record"):
        Filters(["mof_joint", "blur"])
    filters = Filters(["place_in_two_splits"])
    with pytest.raises(DataError, match="prepare"):
        filters.record({}, "train")


@pytest.mark.parametrize(("names", "left"), [((), [None]), (("mof_joint",), [None]), (("bad_record",), [])])
def test_a_bare_null_is_dropped_by_its_filter_alone(names: tuple[str, ...], left: list) -> None:
    assert list(Filters(names).records([None], "train")) == left
