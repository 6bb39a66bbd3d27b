"""Invariant: directions of every frame are found, lookalikes are not; sanitized texts hold none; other text stays."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from pemoe.datasets_scripts.sanitize import (
    MODES,
    Direction,
    SanitizeReport,
    find_directions,
    mask_directions,
    remove_directional_sentences,
    sanitize_caption,
    sanitize_rows,
)
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.text.sentences import split_sentences

REAL = os.environ.get("PEMOE_REAL_CAMPUS")
SETS = ("development", "held_out", "later")
MIN_SCORE = 0.97


def _labelled() -> list[tuple[str, Counter[str], str]]:
    """(set, count of directions per frame, sentence), as labelled by hand."""
    path = Path(__file__).with_name("directional_sentences.tsv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    frames = [[] if row["frames"] == "-" else row["frames"].split(",") for row in rows]
    return [(row["set"], Counter(names), row["sentence"]) for row, names in zip(rows, frames, strict=True)]


LABELLED = _labelled()
DIRECTIONAL = [sentence for _, frames, sentence in LABELLED if frames]
OTHERS = [sentence for _, frames, sentence in LABELLED if not frames]


def _real_satellite_captions() -> list[str]:
    records = json.loads((Path(REAL) / "train.json").read_text(encoding="utf-8"))
    return [record["caption"] for record in records if re.fullmatch(r"(\d{4})/\1\.\w+", record["image_id"])]


def _scores(pairs: list[tuple[Counter[str], Counter[str]]]) -> tuple[float, float]:
    """Precision and recall of (wanted, found) multisets."""
    hits = sum((wanted & found).total() for wanted, found in pairs)
    return hits / sum(found.total() for _, found in pairs), hits / sum(wanted.total() for wanted, _ in pairs)


@pytest.mark.parametrize("name", SETS)
def test_precision_and_recall(name):
    labelled = [(wanted, sentence) for set_name, wanted, sentence in LABELLED if set_name == name]
    found = {sentence: Counter(one.frame for one in find_directions(sentence)) for _, sentence in labelled}
    spans = [(wanted, found[sentence]) for wanted, sentence in labelled]
    sentences = [tuple(Counter(["any"] if frames else []) for frames in pair) for pair in spans]
    failures = [f"{dict(want)} != {dict(found[text])}: {text}" for want, text in labelled if want != found[text]]
    scores = {"sentence": _scores(sentences), "span": _scores(spans)}
    assert min(itertools.chain(*scores.values())) >= MIN_SCORE, "\n".join([str(scores), *failures])


def test_queries_without_capitals_and_punctuation():
    found = [bool(find_directions(re.sub(r"[,.!?:;]", "", text.lower()))) for _, _, text in LABELLED]
    wanted = [bool(frames) for _, frames, _ in LABELLED]
    hits = sum(map(min, wanted, found))
    assert hits / sum(wanted) >= MIN_SCORE
    assert hits / sum(found) >= 0.9  # names can no longer be told apart: "at left bank cafe"


def test_enough_sentences():
    assert len({sentence for _, _, sentence in LABELLED}) == len(LABELLED) >= 450
    for name in SETS:
        counts = Counter(bool(frames) for set_name, frames, _ in LABELLED if set_name == name)
        assert min(counts[True], counts[False]) >= 50
    assert {frame for _, frames, _ in LABELLED for frame in frames} == {"image", "compass", "clock", "viewer"}


@pytest.mark.parametrize("size", [1, 7])
def test_offsets_are_true_ordered_and_disjoint(size):
    for start in range(0, len(DIRECTIONAL), size):
        text = " ".join(DIRECTIONAL[start : start + size])
        found = find_directions(text)
        assert all(text[one.start : one.end] == one.text == one.text.strip() and one.reason for one in found)
        assert all(one.end <= other.start for one, other in itertools.pairwise(found))


def test_spans_hold_the_whole_phrase():
    text = (
        "On the upper left side of the image there is a pond to the north-east of the hall, at 3 o'clock to your left."
    )
    assert [(one.text, one.frame) for one in find_directions(text)] == [
        ("On the upper left side of the image", "image"),
        ("to the north-east", "compass"),
        ("at 3 o'clock", "clock"),
        ("to your left", "viewer"),
    ]
    text = "A pond in the lower left foreground, trees between two and three o'clock."
    assert [one.text for one in find_directions(text)] == [
        "in the lower left foreground",
        "between two",
        "three o'clock",
    ]
    assert find_directions("left")[0] == Direction(0, 4, "left", "image", "left or right")


def test_directions_near_their_lookalikes():
    text = "On the right next to Left Bank Cafe, land was left over by the hall on its left."
    assert [one.text for one in find_directions(text)] == ["On the right", "on its left"]


def test_removes_whole_sentences_only():
    caption = (
        "A round pond is 3.5 m deep.  On the left side there is a road. [MOF] Trees stand around it. Go to your right."
    )
    assert remove_directional_sentences(caption) == "A round pond is 3.5 m deep. Trees stand around it."
    assert remove_directional_sentences("") == "" and find_directions("") == []


@pytest.mark.parametrize("clean", [remove_directional_sentences, mask_directions])
def test_sanitized_sentences_hold_no_direction_and_others_stay(clean):
    for sentence in DIRECTIONAL:
        assert not find_directions(clean(sentence)), sentence
    kept = [clean(sentence) == sentence for sentence in OTHERS if not find_directions(sentence)]
    assert kept and all(kept)
    assert not find_directions(clean(" ".join(DIRECTIONAL + OTHERS)))


def test_masking_keeps_most_sentences_and_leaves_nothing_dangling():
    masked = [mask_directions(sentence) for sentence in DIRECTIONAL if sentence.endswith(".")]
    kept = [text for text in masked if text]
    assert len(kept) >= 0.9 * len(masked)
    assert all(text[0].isupper() and text.endswith(".") and len(text.split()) >= 3 for text in kept)
    dangling = re.compile(
        r"\b(?:the|an?|of|is|are|and|its|to)[.,]|,[.,]| [,.]|  |\b(?:on|in|at) (?:of|there|is|are)\b"
    )
    assert [text for text in kept if dangling.search(text)] == []


@pytest.mark.parametrize(
    ("sentence", "masked"),
    [
        ("On the left side there is a huge building.", "There is a huge building."),
        ("On the left stands a tower.", "There is a tower."),
        ("Some trees are left of the hall.", "Some trees are next to the hall."),
        ("The lower left foreground shows a hedge.", "Part of the view shows a hedge."),
        ("The lake lies between two and three o'clock.", "The lake can be seen."),
        ("A hill hides the left of the plaza.", "A hill hides one side of the plaza."),
        ("The road on the left ends at the gate.", "The road ends at the gate."),
        ("The library, on the right, has a new roof.", "The library has a new roof."),
        ("The building second from the left is new.", "The building is new."),
        ("Panels cover the right two roofs.", "Panels cover the two roofs."),
        ("Lawns border it at the top and bottom.", "Lawns border it."),
        ("A car park lies to the right of the hall.", "A car park lies next to the hall."),
        ("A road is at the top of the image.", "A road can be seen."),
        ("A lawn lies here, and a road is on the right.", "A lawn lies here, and a road can be seen."),
        ("Trees cover the left and the right sides.", "Trees cover the sides."),
        ("A lawn fills the upper left corner.", "A lawn fills one corner."),
        ("The lower part of the picture shows grass.", "One part of the picture shows grass."),
        ("An eastern wing adjoins the hall.", "A wing adjoins the hall."),
        ("The right wing is taller than the left wing.", "The wing is taller than the wing."),
        ("Solar panels cover the south-facing roof.", "Solar panels cover the roof."),
        (
            "On both the left and the right sides of the road there are trees.",
            "On both sides of the road there are trees.",
        ),
        ("It has two roofs, the left of which is red.", "It has two roofs, one of which is red."),
        ("A warehouse, located at the bottom, has a white roof.", "A warehouse has a white roof."),
        ("Turn left at the gate.", "Turn at the gate."),
        ("From left to right, the roofs are grey and red.", "The roofs are grey and red."),
        ("The stadium is in the south of the city.", "The stadium is in the city."),
        ("In the foreground, a lawn is crossed by two paths.", "A lawn is crossed by two paths."),
        ("The school faces north.", ""),
        ("The school faces north, and a lawn surrounds it.", "A lawn surrounds it."),
    ],
)
def test_masked_sentences_read(sentence, masked):
    assert mask_directions(sentence) == masked


def test_sanitize_caption_tells_what_went():
    caption = "A pond. The school faces north. The left wing is white."
    removed, masked = (sanitize_caption(caption, mode) for mode in MODES)
    assert (removed.text, masked.text) == ("A pond.", "A pond. The wing is white.")
    assert removed.removed == ("The school faces north.", "The left wing is white.")
    assert masked.removed == ("The school faces north.",)
    assert [caption[one.start : one.end] for one in masked.directions] == ["north", "The left"]
    assert sanitize_caption("") == sanitize_caption("", "mask") and sanitize_caption("").text == ""
    with pytest.raises(DataError, match="mode 'erase' does not exist: use one of remove, mask"):
        sanitize_caption(caption, "erase")


def _row(name: str, captions: list[str], refined: list[str], platform: str | None = "satellite", split: str = "train"):
    return {
        "image_id": name,
        "platform": platform,
        "split": split,
        "captions": captions,
        "refined_captions": refined,
        "image": {"bytes": b"x", "path": None},
    }


ROWS = (
    _row("1/raw", ["A pond. Trees on the left.", "A road on the right.", "A hall."], []),
    _row("2/refined", ["A pond is to the north."], ["A pond. A gate at 3 o'clock.", "A road in the foreground."]),
    _row("3/emptied", ["A road on the right."], ["A gate on the left.", "Go left."]),
    _row("4/emptied raw", ["A road on the right."], []),
    _row("5/drone", ["A road on the right."], ["On the left."], platform="drone"),
    _row("6/query", ["A road on the right."], [], split="test"),
    _row("7/unknown", ["A road on the right."], [], platform=None),
)


def test_only_satellite_training_rows_change():
    given = copy.deepcopy(ROWS)
    rows = list(sanitize_rows(given))
    assert list(given) == list(ROWS)  # nothing is written into the rows given
    assert rows[0]["refined_captions"] == ["A pond.", "A hall."]
    assert rows[1]["refined_captions"] == ["A pond."]
    assert rows[2:] == list(ROWS[2:])
    assert [row["captions"] for row in rows] == [row["captions"] for row in ROWS]
    assert [any(map(find_directions, row["refined_captions"])) for row in rows[:4]] == [False, False, True, False]
    assert list(sanitize_rows(rows)) == rows  # once more changes nothing


def test_report_counts_what_happened():
    report = SanitizeReport()
    list(sanitize_rows(ROWS, "remove", report))
    reported = json.loads(json.dumps(report.to_dict()))
    expected = {
        "mode": "remove",
        "rows_seen": 7,
        "satellite_train_rows": 4,
        "rows_changed": 2,
        "rows_emptied": 2,
        "captions_seen": 8,
        "captions_changed": 7,
        "captions_emptied": 5,
        "sentences_seen": 10,
        "sentences_removed": 7,
        "raw_captions_seen": 6,
        "raw_captions_emptied": 4,
        "frames": {"image": 5, "clock": 1, "viewer": 1},
    }
    assert {key: reported[key] for key in expected} == expected
    assert reported["reasons"]["left or right"] == 5 and sum(reported["reasons"].values()) == 7
    assert reported["examples"]["clock"] == [
        {"image_id": "2/refined", "before": "A pond. A gate at 3 o'clock.", "after": "A pond."}
    ]
    assert "compass" not in reported["examples"]


def test_report_keeps_few_examples():
    report = SanitizeReport()
    list(sanitize_rows([ROWS[0]] * 20, "mask", report))
    assert len(report.to_dict()["examples"]["image"]) == 5


def test_rows_pass_one_at_a_time_and_a_bad_mode_is_refused_at_once():
    endless = (ROWS[number % len(ROWS)] for number in itertools.count())
    assert len(list(itertools.islice(sanitize_rows(endless), 20))) == 20
    with pytest.raises(DataError, match="mode 'flip'"):
        sanitize_rows(ROWS, "flip")


@pytest.mark.skipif(REAL is None, reason="PEMOE_REAL_CAMPUS does not name a directory of real tiles")
def test_real_captions_hold_no_direction_when_sanitized():
    captions = _real_satellite_captions()
    for clean in (remove_directional_sentences, mask_directions):
        texts = [clean(caption) for caption in captions]
        assert not any(find_directions(text) for text in texts)
        assert not {"left", "right", "leftmost"} & set(re.findall(r"[a-z]+", " ".join(texts).lower()))
    sentences = [sentence for caption in captions for sentence in split_sentences(caption)]
    assert sum(map(bool, map(remove_directional_sentences, sentences))) > 50
    assert sum(map(bool, map(mask_directions, sentences))) > 0.95 * len(sentences)
