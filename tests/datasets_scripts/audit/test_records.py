"""Invariant: every defect of a record or row is reported by its kind, and a good record has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pemoe.datasets_scripts.audit.defects import DEFECTS
from pemoe.datasets_scripts.audit.records import check_record, check_row
from pemoe.datasets_scripts.audit.regions import is_stale, side_words
from pemoe.datasets_scripts.filters.filters import Filters

CAPTION = (
    "The main object in the centre is a white hall with a green dome. On the left side there is a small lake with a "
    "wooden pier. On the right side a road with parked cars leads to a brick tower."
)
SENTENCES = [
    "The main object in the centre is a white hall with a green dome.",
    "On the middle left side there is a small lake with a wooden pier.",
    "On the upper right side a road with parked cars leads to a brick tower.",
]
BOXES = [[0.5, 0.5, 0.3, 0.4], [0.2, 0.5, 0.2, 0.2], [0.8, 0.2, 0.3, 0.3]]


def record(**changes: Any) -> dict[str, Any]:
    image_id = changes.pop("image_id", "0006/image-01.jpeg")
    whole = {"image_id": image_id, "image": f"train/{image_id}", "caption": CAPTION, "sentences": SENTENCES}
    return {**whole, "bboxes": BOXES, **changes}


def kinds(entry: object, split: str = "train", **context: Any) -> list[str]:
    return [found.kind for found in check_record(entry, split, **context)]


def with_region(slot: int, text: str, bbox: Any = (0.5, 0.5, 0.3, 0.3)) -> dict[str, Any]:
    sentences, boxes = list(SENTENCES), list(BOXES)
    sentences[slot], boxes[slot] = text, list(bbox) if bbox else None
    return record(sentences=sentences, bboxes=boxes)


def test_a_good_record_has_no_finding() -> None:
    assert kinds(record()) == []
    test_record = {"image_id": "0006/0006.jpg", "image": "test/query/0006/0006.jpg", "caption": ["a hall", "a lake"]}
    assert kinds(test_record, "test") == []


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "text",
        {"image_id": "0006/0006.jpg", "image": "train/0006/0006.jpg"},
        record(image="train/0007/image-01.jpeg"),
        record(sentences=SENTENCES[:2]),
        record(sentences="text"),
        record(sentences=[1, 2, 3]),
    ],
)
def test_a_broken_record_is_one_finding(entry: object) -> None:
    assert kinds(entry) == ["bad_record"]


@pytest.mark.parametrize("image_id", ["x.jpg", "../a.jpg", "a/b/c.jpg", "", None, 3, ["a"], "0006/..", "a\\b/c.jpg"])
def test_a_bad_image_id_is_one_finding(image_id: object) -> None:
    assert kinds(record(image_id=image_id)) == ["bad_image_id"]


def test_a_caption_list_is_demanded_of_test_records() -> None:
    assert kinds(record(image="test/query/0006/image-01.jpeg"), "test") == ["bad_record"]


@pytest.mark.parametrize("caption", ["", "  \n", None, 3, ["a", "b"]])
def test_a_caption_that_is_no_text_is_empty(caption: object) -> None:
    assert kinds(record(caption=caption, sentences=[], bboxes=[])) == ["empty_caption"]


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        (" On the far side of the ro", ["truncated_caption"]),
        (" [MOF] A pond lies there.", ["mof_joint"]),
        (" On the far side [ mof ] A pond lies there.", ["truncated_caption", "mof_joint"]),
        (" I'm sorry, nothing more is to be seen.", ["refused_caption"]),
        (" Is it a school?", ["refused_caption"]),
        (" See www.campus.example for more.", ["refused_caption"]),
        (" The sign reads 19.", ["rejected_words"]),
        (" The sun shines.", ["rejected_words"]),
        (" The unsung words of the sundial: skylights, wordless.", ["rejected_words"]),
        (" It has skylights, a sundial and a reader.", []),
    ],
)
def test_what_is_wrong_with_a_caption_is_reported(addition: str, expected: list[str]) -> None:
    assert kinds(record(caption=CAPTION + addition)) == expected


def test_the_sky_belongs_in_pictures_from_the_ground() -> None:
    assert kinds(record(image_id="0006/ab12.jpg", caption=CAPTION + " The sky is blue.")) == []


def test_a_query_may_ask_and_need_not_name_a_side() -> None:
    entry = {"image_id": "0006/0006.jpg", "image": "test/query/0006/0006.jpg", "caption": ["where is the round hall?"]}
    assert kinds(entry, "test") == []
    assert kinds(record(caption="A hall stands by a road.", sentences=[], bboxes=[])) == ["no_left_right"]


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        (None, ["null_bbox"]),
        ([0.5, 0.5, 0.3], ["bad_bbox"]),
        ([0.5, 0.5, 0.3, -0.1], ["bad_bbox"]),
        ([0.5, 0.5, 0.0, 0.2], ["bad_bbox"]),
        ([0.5, 1.01, 0.2, 0.2], ["bad_bbox"]),
        ([0.5, float("nan"), 0.2, 0.2], ["bad_bbox"]),
        ([True, 0.5, 0.2, 0.2], ["bad_bbox"]),
        ([0.5, 0.5, 0.14, 0.2], ["noisy_bbox"]),
        ([0.5, 0.5, 0.2, 0.81], ["noisy_bbox"]),
        ([0.2, 0.5, 0.3, 0.3], ["noisy_bbox"]),
        ([0.3, 0.5, 0.15, 0.8], []),
    ],
)
def test_boxes_of_the_main_object(bbox: list | None, expected: list[str]) -> None:
    assert kinds(with_region(0, SENTENCES[0], bbox)) == expected


def test_a_null_list_is_as_many_nulls() -> None:
    assert kinds(record(bboxes=None)) == ["null_bbox"] * 3
    assert kinds(record(sentences=None)) == [] == kinds(record(sentences=None, bboxes=None))


@pytest.mark.parametrize("sentences", [None, [None, *SENTENCES[1:]], ["  ", *SENTENCES[1:]]])
def test_a_box_beside_no_sentence_is_judged(sentences: list | None) -> None:
    found = check_record(record(sentences=sentences, bboxes=[[9, 9, 9, 9], *BOXES[1:]]), "train")
    assert [(one.kind, one.region_index) for one in found] == [("bad_bbox", 0)]
    assert kinds(record(sentences=sentences)) == []


@pytest.mark.parametrize(
    ("split", "folder"),
    [("train", "train(701)"), ("test", "test/query(701)"), ("test", "test/gallery_no_train(250)")],
)
def test_folders_may_be_called_as_in_the_readme(split: str, folder: str) -> None:
    caption = CAPTION if split == "train" else ["a hall"]
    entry = record(image=f"{folder}/0006/image-01.jpeg", caption=caption)
    assert kinds(entry, split) == []
    assert kinds(entry, "test" if split == "train" else "train") == ["bad_record"]


def test_sides_of_regions() -> None:
    assert kinds(with_region(1, "A bright hall with a dome.")) == ["false_side_sentence"]
    assert kinds(with_region(1, "A road is left over from a brick tower.")) == ["false_side_sentence"]
    assert kinds(with_region(0, "A bright hall with a dome.")) == []
    disagreeing = "On the upper middle side there is a small lake with a wooden pier."
    assert kinds(with_region(1, disagreeing)) == ["sentence_caption_disagree"]
    both = "From the left side to the right side a road with parked cars leads to a brick tower."
    assert kinds({**with_region(1, both), "bboxes": [None] * 3}) == [
        "null_bbox",
        "null_bbox",
        "both_sides_sentence",
        "null_bbox",
    ]


def test_side_words_are_those_meant_as_directions() -> None:
    assert side_words("On the lower left side there is a bright hall, right next to a road.") == {"left"}
    assert side_words("A bright copyright sign.") == frozenset()


def test_stale_sentences_share_nothing_with_their_image() -> None:
    assert kinds(with_region(1, "On the left side there are six tennis courts.")) == ["stale_sentence"]
    other = {"image_captions": ["On the left side there are tennis courts."]}
    assert kinds(with_region(1, "On the left side there are six tennis courts."), **other) == []


def test_a_sentence_of_the_record_before_is_stale_if_it_fits_there_better() -> None:
    sentence = "On the left side there is a small lake with a stone bridge and swans."
    before = {"caption": sentence, "sentences": [sentence]}
    assert not is_stale(sentence, [CAPTION])
    assert is_stale(sentence, [CAPTION], before)
    assert not is_stale(sentence, [CAPTION + sentence], before)


def row(**changes: Any) -> dict[str, Any]:
    whole = {"image_id": "a.jpg", "platform": "drone", "captions": [CAPTION], "regions": [], "split": "train"}
    whole |= {"place_id": "a", "source": "folder", "latitude_deg": 48.1, "longitude_deg": 11.6}
    return {**whole, **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"latitude_deg": None, "longitude_deg": None}, ["missing_coordinates"]),
        ({"latitude_deg": None}, ["bad_coordinates"]),
        ({"latitude_deg": 90.5}, ["bad_coordinates"]),
        ({"longitude_deg": -180.1}, ["bad_coordinates"]),
        ({"latitude_deg": float("nan")}, ["bad_coordinates"]),
        ({"platform": None}, ["unknown_platform"]),
        ({"captions": []}, ["no_caption"]),
        ({"captions": [], "split": "test"}, []),
        ({"captions": [" "]}, ["empty_caption"]),
        ({"captions": [" "], "split": "test"}, ["empty_caption"]),
        ({"regions": [{"text": "A dome.", "bbox": [2.0, 0.5, 0.1, 0.1]}]}, ["bad_bbox"]),
        ({"regions": [{"text": "A bright dome.", "bbox": [0.5] * 4}, {"text": "A tower.", "bbox": [0.5] * 4}]}, []),
    ],
)
def test_rows(changes: dict[str, Any], expected: list[str]) -> None:
    assert [found.kind for found in check_row(row(**changes))] == expected


@pytest.mark.parametrize("source", ["folder", "campus", "robosense"])
def test_rows_of_other_sources_are_not_measured_against_the_generator_of_geotext(source: str) -> None:
    caption = "A hall stands by a road; its sign reads 19."
    regions = [{"text": caption, "bbox": [0.5, 0.5, 0.05, 0.9]}]
    reported = row(captions=[caption], regions=regions, source=source)
    assert check_row(reported) == []
    assert {found.kind for found in check_row({**reported, "source": "geotext1652"})} == {
        "no_left_right",
        "rejected_words",
        "noisy_bbox",
    }


def test_missing_coordinates_belong_to_the_place() -> None:
    nowhere = {"latitude_deg": None, "longitude_deg": None}
    assert [found.image_id for found in check_row(row(**nowhere))] == ["a"]
    assert [found.image_id for found in check_row(row(**nowhere, place_id=None))] == ["a.jpg"]


def test_a_record_without_captions_is_an_error_still() -> None:
    entry = {"image_id": "0006/0006.jpg", "image": "test/query/0006/0006.jpg", "caption": []}
    assert kinds(entry, "test") == ["empty_caption"]


def junk(rng: np.random.Generator, depth: int = 0) -> Any:
    """Any JSON value, often one that is nearly right."""
    leaves = [None, True, -1, 10**400, 1e308, float("nan"), "", " ", "\ud800", "0006/0006.jpg", CAPTION, "left" * 50]
    if depth > 2 or rng.random() < 0.6:
        return leaves[rng.integers(len(leaves))]
    items = [junk(rng, depth + 1) for _ in range(rng.integers(5))]
    return items if rng.random() < 0.6 else dict(zip("abcde", items, strict=False))


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_record_whatever_breaks_the_checks(split: str) -> None:
    rng = np.random.default_rng(0)
    filters = Filters(["bad_record", "bad_image_id", "empty_caption", "bad_bbox", "stale_sentence", "mof_joint"])
    good = record(image="train/0006/image-01.jpeg" if split == "train" else "test/query/0006/image-01.jpeg")
    for _ in range(1500):
        entry = {key: junk(rng) if rng.random() < 0.3 else value for key, value in good.items()}
        if split == "test" and isinstance(entry["caption"], str):
            entry["caption"] = [entry["caption"], junk(rng)]
        for kept in (entry, filters.record(entry, split)):
            found = kinds(kept, split) if kept is not None else []
        assert not {DEFECTS[kind].severity for kind in found} & {"error"}  # those left by the filters
