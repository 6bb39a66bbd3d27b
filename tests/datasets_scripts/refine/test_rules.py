"""Invariant: refined texts are distinct, short, whole, true to their platform; of satellite without directions."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import datasets
import pytest
from PIL import Image

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.refine import RuleRefiner, refine_dataset
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError
from pemoe.datasets_scripts.sources.geotext.names import platform_of
from pemoe.datasets_scripts.text.sentences import split_sentences
from pemoe.datasets_scripts.text.visibility import without_hidden

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
            "Grey roofs. A lawn lies between them.",
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
            "Lawns surround it. A pond lies next to it.",
        ),
        ("satellite", "Near the door there are a low hedge and a statue on a pedestal.", "A low hedge."),
        ("drone", "A paved yard with a fountain and a flag.", "A paved yard with a fountain."),
        ("drone", "round white arena beside a car park", "Round white arena beside a car park."),
    ],
)
def test_rewrites(platform, caption, text):
    assert RuleRefiner().refine(caption, platform) == [text]


@pytest.mark.parametrize(
    ("platform", "caption", "texts"),
    [
        (
            "satellite",
            "A low hall lies in the middle, behind the stands.",
            ["A low hall lies in the middle, behind the stands."],
        ),
        ("satellite", "A pitch with white lines lies at the left.", ["A pitch with white lines."]),
        ("satellite", "A terrace with curved seats sweeping across the top.", ["A terrace with curved seats."]),
        ("drone", "A wide yard is framed by a yellow border.", ["A wide yard is framed by a yellow border."]),
        (
            "drone",
            "A fence parts it from the pool, which is partly visible at the left edge.",
            ["A fence parts it from the pool at the left edge."],
        ),
        ("satellite", "A brown shed is only partly visible at the top edge.", ["A brown shed."]),
        ("drone", "To its right stand tall pale office towers.", ["Tall pale office towers."]),
        (
            "drone",
            "Lanes meet at the left, where a round lawn lies, and a road ends there.",
            ["Lanes meet at the left, where a round lawn lies, and a road ends there."],
        ),
        (
            "drone",
            "A clock tower rises at the left, and one walker passes by.",
            ["A clock tower rises at the left, and one walker passes by."],
        ),
        (
            "satellite",
            "Three dark roofs stand out at the right, and hedges are visible at the top.",
            ["Three dark roofs stand out."],
        ),
        (
            "satellite",
            "The upper left yard is full of sheds, and another long pool lies at the right.",
            ["A long pool."],
        ),
        ("satellite", "A wide shadow covers the western strip of the yard. A round pond.", ["A round pond."]),
        ("satellite", "Its left and upper wings are white. A round pond.", ["A round pond."]),
        ("satellite", "A round hall stands on the left side of this old-town view.", ["A round hall."]),
        ("satellite", "Lawns fill the left side and bottom. A round pond.", ["A round pond."]),
        ("satellite", "A square hall with a deep notch on its left side.", ["A square hall with a deep notch."]),
        (
            "satellite",
            "Walks meet around it and a paved square is visible at the upper right.",
            ["Walks meet around it. A paved square."],
        ),
        (
            "drone",
            "A porch on its north side, with a row of lamp posts and a statue close by.",
            ["A porch on its north side, with a statue close by."],
        ),
        (
            "drone",
            "It has a round porch, and near the door there are a statue and a bench.",
            ["It has a round porch, and near the door there is a statue."],
        ),
        (
            "drone",
            "It has a round porch, and near the door there are a row of lamp posts and a statue.",
            ["It has a round porch, and near the door there is a statue."],
        ),
        ("drone", "A porch on its north side, with a bench close by.", ["A porch on its north side."]),
        ("ground", "A round hall with a red roof that has rooftop vents.", ["A round hall."]),
    ],
)
def test_leaves_whole_sentences(platform, caption, texts):
    assert RuleRefiner().refine(caption, platform) == texts


@pytest.mark.parametrize(
    ("caption", "texts"),
    [
        (
            "A long white hall stands here. Its two wings have red roofs.",
            ["A long white hall stands here. Its two wings have red roofs."],
        ),
        ("A second barn lies in front. A pond.", ["A barn lies in front. A pond."]),
        (
            "Its two wings are made of brick. A long hall has a red roof.",
            ["The two wings are made of brick. A long hall has a red roof."],
        ),
        ("It is an old mill with a red roof. A pond.", ["An old mill with a red roof. A pond."]),
        ("Both are old. A pond lies by a road.", ["A pond lies by a road."]),
    ],
)
def test_opens_with_what_needs_nothing_before_it(caption, texts):
    assert RuleRefiner().refine(caption, "drone") == texts


@pytest.mark.parametrize(
    ("first", "opening"),
    [
        ("A small annex with a red roof stands next to the building.", "A T-shaped hall"),
        ("The building has a glazed entrance with white columns.", "A T-shaped hall"),
        ("An entrance with white columns opens to a court.", "A T-shaped hall"),
        ("It is a one-storey building of red brick.", "A one-storey building"),
        ("It is an old building of red brick.", "An old building"),
        ("A long house of red brick with an entrance porch.", "A long house"),
    ],
)
def test_opens_with_the_building_not_with_an_annex_or_its_door(first, opening):
    texts = RuleRefiner().refine(f"{first} A T-shaped hall with a green roof. A pond.", "drone")
    assert texts and all(text.startswith(opening) for text in texts)


@pytest.mark.parametrize(
    ("caption", "opening"),
    [
        ("A long hall with a grey roof stretches horizontally across the image.", "A long hall with a grey roof."),
        ("A long hall lies horizontally across this image, half bright: the left part is white.", "A long hall, half"),
        ("A thin building stands upright in this scene beside a straight vertical road.", "A thin building stands"),
        ("A round hall lies just below the middle.", "A round hall."),
        ("A hall with a cross-like plan, its narrow main wing running vertically.", "A hall with a cross-like plan"),
    ],
)
def test_how_the_building_lies_goes_and_the_building_stays(caption, opening):
    texts = RuleRefiner().refine(caption, "satellite")
    assert texts[0].startswith(opening) and not any(find_directions(text) for text in texts)


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
    ("caption", "platform", "named"),
    [("", "drone", "''"), (" [MOF] ", "drone", "MOF"), ("A pond.", "a boat", "a boat")],
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


BROKEN_END = re.compile(r"\b(?:an?|the|its|their|of|from|with|and|or|but|which|that|where|whose|into|is|are|only)[.]$")
BARE_VERB = re.compile(r"(?:Stands?|Lies?|Is|Are|Runs?|Rises?|Fills?|Borders|Covers|Extends?|Leads?|Surrounds?) ")
LEFT_OVER = re.compile(r" rack |side (?:close by|nearby)|,,|there are an? [^,]*\.$|^A building (?:vents|garden)\.$")
POINTS_BACK = re.compile(r"(?:Its?|Their|They|Another|A second|One half of its|Other|More) ")


def assert_reads(texts: list[str]) -> None:
    """No text opens with what points back, no sentence of it with a bare verb, none stops at a word that asks on."""
    assert [text for text in texts if POINTS_BACK.match(text)] == []
    sentences = [sentence for text in texts for sentence in split_sentences(text)]
    assert [sentence for sentence in sentences if BROKEN_END.search(sentence) or BARE_VERB.match(sentence)] == []
    assert [sentence for sentence in sentences if LEFT_OVER.search(sentence) and " and " not in sentence] == []


def test_campus_texts_read_as_english():
    train = load_source("campus", train_places=12, test_places=1)["train"].remove_columns("image")
    names = train.features["platform"].names
    for row in train:
        for caption in row["captions"]:
            assert_reads(RuleRefiner().refine(caption, names[row["platform"]]))


def test_campus_neighbours_survive_for_satellite_and_drone():
    train = load_source("campus", train_places=4, test_places=1)["train"].remove_columns("image")
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
    for caption in captions:
        assert_reads(RuleRefiner().refine(caption, platform))
