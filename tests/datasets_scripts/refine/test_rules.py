"""Invariant: refined texts are distinct, short, true to their platform and, for satellite, without directions."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import datasets
import pytest
from PIL import Image

from pemoe.datasets_scripts.campus.source import load_campus
from pemoe.datasets_scripts.geotext_names import platform_of
from pemoe.datasets_scripts.refine import RuleRefiner, refine_dataset
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError
from pemoe.datasets_scripts.visibility import without_hidden

REAL = os.environ.get("PEMOE_REAL_CAMPUS")
CAPTION = (
    "The image shows a university campus. The main object in the center of the image is a large L-shaped building "
    "with a blue roof. Its facade is made of red brick, and the entrance has tall columns. There is a wooden "
    "bench near the gate. On the left side of the image, there is a car park with nine cars. [MOF] To the north "
    "of the building one can see a pond. A running track is next to the building. A running track is next to the "
    "building. On the right there is a ro"
)


def refined(caption: str, platform: str) -> str:
    return " ".join(RuleRefiner().refine(caption, platform))


@pytest.mark.parametrize(
    ("platform", "kept", "lost"),
    [
        (
            "satellite",
            ("car park", "pond", "running track", "blue roof"),
            ("brick", "entrance", "bench", "left", "north"),
        ),
        ("drone", ("car park", "pond", "running track", "blue roof", "brick", "columns"), ("bench", "left side")),
        (
            "ground",
            ("brick", "entrance", "columns", "bench", "car park"),
            ("roof", "L-shaped", "nine cars", "left side"),
        ),
    ],
)
def test_keeps_what_the_platform_sees(platform, kept, lost):
    text = refined(CAPTION, platform)
    assert [word for word in kept if word not in text] == []
    assert [word for word in lost if word in text] == []
    assert "university campus" not in text and "MOF" not in text and "ro" not in text.split()
    assert text.count("running track") == 1


@pytest.mark.parametrize(
    ("platform", "caption", "text"),
    [
        ("drone", "On the left side of the image there is a pond.", "A pond."),
        ("ground", "On the left stands a stone house.", "A stone house."),
        ("drone", "To the left of the hall there is a pond.", "To the left of the hall there is a pond."),
        ("drone", "The image also shows a red barn.", "A red barn."),
        ("drone", "A small lake can be seen behind the hall.", "A small lake behind the hall."),
        ("satellite", "A round lawn lies at the lower left of the image.", "A round lawn."),
        ("satellite", "A pond lies to the left of the hall.", "A pond lies next to the hall."),
        (
            "satellite",
            "Grey roofs fill the upper left corner, and a lawn lies between them.",
            "Grey roofs, and a lawn lies between them.",
        ),
        ("satellite", "A drive is on its left.", "A drive is next to it."),
        ("satellite", "A three-storey red brick hall stands beside a pond.", "A hall stands beside a pond."),
        ("satellite", "A hall with tall windows and a garden.", "A hall with a garden."),
        ("satellite", "Cars are parked in front of the entrance.", "Cars are parked."),
        ("ground", "A white house with a red roof stands behind a hedge.", "A white house stands behind a hedge."),
        ("ground", "A dark-roofed house has arched windows.", "A house has arched windows."),
        (
            "satellite",
            "Lawns surround it on the left and below, and a pond lies on its right.",
            "Lawns surround it, and a pond lies next to it.",
        ),
        ("satellite", "Near the door there are a low hedge and a statue on a pedestal.", "A low hedge."),
        ("drone", "A paved yard with a fountain and a flag.", "A paved yard with a fountain."),
        ("drone", "round white arena beside a car park", "Round white arena beside a car park."),
    ],
)
def test_rewrites(platform, caption, text):
    assert RuleRefiner().refine(caption, platform) == [text]


def test_boilerplate_goes_when_it_says_nothing_else():
    lead = "This is an aerial view of a university campus."
    assert refined(f"{lead} A pond lies beside a road.", "drone") == "A pond lies beside a road."
    assert refined("This is an aerial view of a red barn.", "drone") == "A red barn."
    assert refined(lead, "drone") == lead


@pytest.mark.parametrize("platform", PLATFORMS)
def test_falls_back_to_the_cleaned_caption(platform):
    assert RuleRefiner().refine("The image shows  [MOF] a university campus.", platform) == [
        "The image shows a university campus."
    ]
    assert RuleRefiner().refine("Windows.", platform)


def test_joins_neighbours_and_never_cuts():
    caption = " ".join(f"A pond of number {number} lies beside a road." for number in range(9))
    for target_chars in (1, 60, 100, 227, 10_000):
        texts = RuleRefiner(target_chars).refine(caption, "drone")
        assert " ".join(texts) == caption
        assert all(len(text) <= max(target_chars, 40) for text in texts)
        assert len(texts) == {1: 9, 60: 9, 100: 5, 227: 2, 10_000: 1}[target_chars]


@pytest.mark.parametrize(
    ("caption", "platform", "named"), [("", "drone", "''"), (" [MOF] ", "drone", "MOF"), ("A pond.", "boat", "boat")]
)
def test_bad_input(caption, platform, named):
    with pytest.raises(DataError) as error:
        RuleRefiner().refine(caption, platform)
    assert named in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(DataError, match="target_chars is 0"):
        RuleRefiner(0)


def test_without_hidden_keeps_grammar():
    assert without_hidden("an old brick house near a lake", "satellite") == "an old house near a lake"
    assert without_hidden("a brick annex", "satellite") == "an annex"
    assert without_hidden("the facade is white", "satellite") == ""


def rows(split: str) -> datasets.Dataset:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    common = {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "place_id": "0001",
        "refined_captions": [],
        "regions": [],
    }
    common.update(latitude_deg=1.5, longitude_deg=None, source="folder", split=split)
    captions = {"satellite": ["A pond. Windows.", "A red barn.", "A pond."], "ground": ["A door with a bench."]}
    records = [
        {**common, "image_id": platform, "platform": platform, "captions": texts}
        for platform, texts in captions.items()
    ]
    return datasets.Dataset.from_list(records, features=FEATURES)


def test_refine_dataset_fills_train_only():
    given = datasets.DatasetDict({"train": rows("train"), "test": rows("test")})
    result = refine_dataset(given)
    assert result["train"]["refined_captions"][:] == [["A pond.", "A red barn."], ["A door with a bench."]]
    assert result["test"].to_list() == given["test"].to_list() and list(result) == ["train", "test"]
    assert result["train"].features == FEATURES and result["train"].column_names == given["train"].column_names
    left = [name for name in FEATURES if name != "refined_captions"]
    assert result["train"].select_columns(left).to_list() == given["train"].select_columns(left).to_list()
    assert given["train"]["refined_captions"][:] == [[], []]
    assert refine_dataset(given, RuleRefiner(5))["train"].to_list() == result["train"].to_list()
    with pytest.raises(DataError, match="no train split"):
        refine_dataset(datasets.DatasetDict({"test": rows("test")}))


def assert_sound(captions: list[str], platform: str) -> None:
    for caption in captions:
        texts = RuleRefiner().refine(caption, platform)
        assert texts == RuleRefiner().refine(caption, platform)
        assert (
            texts and len(set(texts)) == len(texts) and all(text[0].isupper() and "  " not in text for text in texts)
        )
        if platform == "satellite":
            assert not any(find_directions(text) for text in texts)


def test_campus_neighbours_survive_for_satellite_and_drone():
    train = load_campus(None, train_places=4, test_places=1)["train"].remove_columns("image")
    names = train.features["platform"].names
    checked = 0
    for row in train:
        platform = names[row["platform"]]
        assert_sound(row["captions"], platform)
        for caption in row["captions"]:
            whole, text = caption.rsplit(".", 1)[0], refined(caption, platform)
            for thing in (
                "car park",
                "parking lot",
                "pond",
                "small lake",
                "running track",
                "athletics track",
                "tennis court",
            ):
                if platform != "ground" and thing in whole:
                    assert thing in text, (thing, caption)
                    checked += 1
        if platform == "satellite":
            assert not any(
                word in refined(caption, platform) for caption in row["captions"] for word in ("window", "storey")
            )
    assert checked > 5


@pytest.mark.skipif(REAL is None, reason="PEMOE_REAL_CAMPUS does not name a directory of real tiles")
@pytest.mark.parametrize("platform", PLATFORMS)
def test_real_captions(platform):
    records = json.loads((Path(REAL) / "train.json").read_text(encoding="utf-8"))
    captions = [record["caption"] for record in records if platform_of(record["image_id"]) == platform]
    assert len(captions) >= 55
    assert_sound(captions, platform)
