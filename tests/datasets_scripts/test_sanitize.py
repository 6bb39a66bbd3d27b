"""Invariant: directions of every frame are found, words that only look like directions are not, text outside stays."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from pemoe.datasets_scripts.sanitize import Direction, find_directions, remove_directional_sentences
from pemoe.datasets_scripts.sentences import split_sentences

REAL = os.environ.get("PEMOE_REAL_CAMPUS")

POSITIVE = {
    "image": (
        "On the left side there is a huge building.",
        "A road runs in the upper left corner.",
        "Trees stand at the lower right.",
        "A car park lies to the right of the hall.",
        "There is a pond left of the building.",
        "A road is at the top of the image.",
        "The bottom half is covered with trees.",
        "On the upper middle side of the building there is a street.",
        "The lower part of the picture shows grass.",
        "A street closes the top edge.",
        "The right wing is taller.",
        "Left of the building is a pond.",
        "Cars stand on the right-hand side.",
        "The leftmost block is white.",
        "It sits in the upper-right corner.",
        "Road on the right next to the pond.",
        "A tree on the left behind the hall.",
        "A garden is in the lower center.",
        "A pond on the middle right.",
        "The road runs from left to right.",
        "It goes from top to bottom.",
        "Turn left at the gate.",
        "A drive is on its left.",
        "Buses stand along the bottom.",
        "A path lies near the bottom of the tile.",
        "A pond on the far left.",
        "A road along the left edge.",
        "A patch fills the right side and the bottom.",
        "A lawn lies below the center.",
        "On the lower middle side is a lawn.",
        "A lake can be seen at the top.",
        "Left and right of it are trees.",
        "On the down left side there is a road.",
        "Trees on both the left and the right sides.",
        "A road is on the upper side of the building.",
        "The left one is bigger.",
        "A street crosses the bottom.",
        "Lawns fill the right side and the top.",
        "A road runs down the left side of the street.",
        "A court lies in the lower left of the center.",
        "A dome stands at the image's top.",
    ),
    "viewer": (
        "A hedge stands in the foreground.",
        "Hills rise in the background.",
        "There is a shop to your left.",
        "On your right-hand side is a fence.",
        "A wall is visible in the far background.",
    ),
    "compass": (
        "A lawn lies to the north of the hall.",
        "Its northern side is shaded.",
        "A gate at the north-east.",
        "The facade is facing south.",
        "A tree in the NE corner.",
        "A path crosses the southwest corner.",
        "South-facing slope with vines.",
        "Northern side of the building is dark.",
        "The building runs north to south.",
        "The southernmost court is round.",
        "A westward road.",
        "It is in the North East corner.",
        "The N side is open.",
        "A house stands due west of it.",
        "The west wing has a green roof.",
        "Parking is southeast of the hall.",
    ),
    "clock": (
        "A car stands at 3 o'clock.",
        "A pool can be found at three o’clock.",
        "Moving clockwise, a lawn follows.",
        "The gate is at about 10 o'clock.",
    ),
}
NEGATIVE = (
    "A plaza lies in the center of the image.",
    "Trees surround the middle of the court.",
    "Paths run around the hall.",
    "A car park lies behind it.",
    "A fountain is in front of the building.",
    "A lawn is opposite the hall.",
    "A pond is next to the road.",
    "A shed stands beside it.",
    "A shop is right next to the station.",
    "Two wings meet at a right angle.",
    "The wings join at right angles.",
    "A yard is right behind the hall.",
    "Some land was left over from the works.",
    "A crane was left behind.",
    "The roof is bright.",
    "An upright slab stands there.",
    "A copyright mark is printed.",
    "The top floor is glazed.",
    "The upper floors have balconies.",
    "The lower level is a garage.",
    "The lower floors are brick.",
    "This is a top-down view of a campus.",
    "A tank stands on top of the roof.",
    "A path leads to North Hall.",
    "People sit at Left Bank Cafe.",
    "The campus of Northwestern University is green.",
    "It stands on South Street.",
    "North Hall stands alone.",
    "Shops line West 4th Street.",
    "The lot has been left unpaved.",
    "The field is left open.",
    "There is little space left.",
    "A right-of-way crosses the site.",
    "The right-angled wings enclose a court.",
    "The hall is in West Lafayette.",
    "A clock tower stands alone.",
    "A brightly lit yard.",
    "It resembles Middle Eastern houses.",
    "K Street NW passes by.",
    "The lower part of the facade is stone.",
    "A flag is at the top of the building.",
    "It has a western-style gate.",
    "A white house against a background of trees.",
    "Right in front of the hall is a lawn.",
    "The top of the tower is glazed.",
    "A shelter stands right at the corner.",
    "Southampton has a port.",
    "The rooftop has solar panels.",
    "The upper storeys are set back.",
    "A diagonal path crosses the lawn.",
    "An inner court lies between both wings.",
    "A dome rises above the entrance.",
    "The University of Southern California owns it.",
    "Stairs lead to the top of the hill.",
    "A flag flies at the top of a tall tower.",
    "Two lower roofs adjoin the hall.",
    "Two cover plates lie in the yard.",
    "A hilltop chapel overlooks the town.",
    "A cross-shaped roof has five skylights.",
    "The wall was left unpainted.",
    "It runs right along the river.",
    "A path is right in the middle of the lawn.",
    "A dense forest surrounds it.",
    "Northgate Mall is white.",
)


def test_enough_cases():
    assert sum(map(len, POSITIVE.values())) + len(NEGATIVE) >= 120


@pytest.mark.parametrize(("frame", "sentence"), [(frame, text) for frame, texts in POSITIVE.items() for text in texts])
def test_finds_directions(frame, sentence):
    assert {direction.frame for direction in find_directions(sentence)} == {frame}
    assert remove_directional_sentences(sentence) == ""


@pytest.mark.parametrize("sentence", NEGATIVE)
def test_leaves_other_words(sentence):
    assert find_directions(sentence) == []
    assert remove_directional_sentences(sentence) == sentence


@pytest.mark.parametrize("frame", POSITIVE)
def test_offsets_are_true_ordered_and_disjoint(frame):
    text = " ".join(POSITIVE[frame]) + " ".join(NEGATIVE)
    found = find_directions(text)
    assert len(found) >= len(POSITIVE[frame])
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


@pytest.mark.skipif(REAL is None, reason="PEMOE_REAL_CAMPUS does not name a directory of real tiles")
def test_real_captions_keep_nothing_with_left_or_right():
    records = json.loads((Path(REAL) / "train.json").read_text(encoding="utf-8"))
    kept = [remove_directional_sentences(record["caption"]) for record in records]
    words = [word.strip(".,;") for text in kept for sentence in split_sentences(text) for word in sentence.split()]
    assert len(words) > 1000
    assert not {"left", "leftmost", "rightmost", "lower-left", "upper-left", "lower-right"} & set(words)
