"""Invariant: of what a model says only sound statements are used, and every other one has its own, right reason."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from pemoe.datasets_scripts.refine.llm.prompts import (
    PROMPT_DIR,
    UnreadableImageError,
    build_messages,
    image_data_url,
    load_prompts,
)
from pemoe.datasets_scripts.refine.llm.validation import Question, _is_english, validate
from pemoe.datasets_scripts.refine.outcome import REASONS
from pemoe.datasets_scripts.schema import PLATFORMS, DataError
from pemoe.datasets_scripts.text.similarity import say_the_same

CAPTION = (
    "The image shows a long white hall with a flat grey roof and tall windows. On the left there is a round pond. "
    "A car park with many cars lies behind the hall, and a row of trees stands near the road."
)
GOOD = "Long white hall with a flat grey roof, next to a round pond and a car park."


def judge(answer: str, platform: str = "satellite", is_text_only: bool = True) -> tuple[list[str], list[str]]:
    question = Question(CAPTION, platform, load_prompts("v1", 3)[platform], 3, is_text_only)
    texts, rejected = validate(answer, question)
    assert all(rejection.reason in REASONS and rejection.detail for rejection in rejected)
    return texts, [rejection.reason for rejection in rejected]


def answer_of(*texts: object) -> str:
    return json.dumps({"statements": list(texts)})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "not_json"),
        ("nsi fow 88 roof roof {{", "not_json"),
        ('{"statements": ["' + GOOD, "not_json"),
        (f"Sure, here is the JSON: {answer_of(GOOD)}", "chatter"),
        (f"{answer_of(GOOD)}\nLet me know if you need more!", "chatter"),
        ("Here are the rewritten statements:\n1. Long white hall", "chatter"),
        ("I'm sorry, but I cannot help with that.", "refusal"),
        ("As an AI language model, I do not see images.", "refusal"),
        ("[" * 100_000, "not_json"),
        ("[]", "wrong_shape"),
        ("null", "wrong_shape"),
        (json.dumps({"texts": [GOOD]}), "wrong_shape"),
        (json.dumps({"statements": GOOD}), "wrong_shape"),
        (answer_of(GOOD, 3), "wrong_shape"),
        (answer_of(), "empty"),
        (answer_of("", "  "), "empty"),
    ],
)
def test_answers_that_are_not_what_was_asked_for(answer: str, reason: str) -> None:
    assert judge(answer) == ([], [reason])


@pytest.mark.parametrize(
    "answer",
    [answer_of(GOOD), f"```json\n{answer_of(GOOD)}\n```", f"<think>A hall.</think>\n {answer_of(GOOD)}  "],
)
def test_a_fence_or_a_thought_is_no_fault(answer: str) -> None:
    assert judge(answer) == ([GOOD], [])


@pytest.mark.parametrize(
    ("platform", "statement", "reason"),
    [
        ("satellite", "White hall.", "too_short"),
        ("satellite", GOOD + " " + "Long white hall beside a round pond and a road. " * 9, "too_long"),
        ("satellite", "I cannot see a long white hall with a flat grey roof.", "refusal"),
        ("satellite", "Sure, a long white hall with a flat grey roof and a pond.", "chatter"),
        ("satellite", "Long white hall as given in the description, with a round pond.", "chatter"),
        ("satellite", "Long white hall with a flat grey roof in the upper part of the image.", "about_the_picture"),
        ("satellite", "**Long white hall** with a flat grey roof next to a round pond.", "markup"),
        ("satellite", "- Long white hall with a flat grey roof next to a round pond.", "markup"),
        ("satellite", '{"statement": "Long white hall with a flat grey roof"}', "markup"),
        ("satellite", "Long white hall with a flat grey roof next to a round...", "markup"),
        ("satellite", "Long white hall with a flat grey roof next to a", "cut_off"),
        ("satellite", "Lange weiße Halle mit einem flachen grauen Dach neben einem runden Teich.", "not_english"),
        ("satellite", "Un edificio blanco y largo con una cubierta gris y plana junto a la laguna.", "not_english"),
        ("satellite", "一座白色的长方形大厅，灰色平屋顶，旁边有一个圆形池塘和停车场，周围有许多树木。", "not_english"),
        ("satellite", "Long white hall with a flat grey roof, a round pond to its left.", "direction"),
        ("satellite", "Long white hall with a flat grey roof, north of a round pond.", "direction"),
        ("satellite", "Long white hall with tall windows next to a round pond.", "hidden"),
        ("satellite", "Three-storey white hall with a flat grey roof next to a pond.", "hidden"),
        ("drone", "Long white hall with a flat grey roof, a bench near the road.", "hidden"),
        ("ground", "Long white hall with a flat grey roof and tall windows near a pond.", "hidden"),
        ("satellite", "Next to a round pond stands a long white hall with a flat roof.", "not_the_building"),
        ("satellite", "There is a long white hall with a flat grey roof near a road.", "not_the_building"),
        ("satellite", "Red brick castle surrounded by vineyards, hills and a river valley.", "hidden"),
        ("drone", "Ancient castle surrounded by vineyards, mountains and a river valley.", "unrelated"),
        ("drone", "White hall: form, its roof, its walls, its height, then goes on with pond.", "copied_prompt"),
    ],
)
def test_statements_that_cannot_be_used(platform: str, statement: str, reason: str) -> None:
    assert judge(answer_of(statement), platform) == ([], [reason])


@pytest.mark.parametrize(
    ("platform", "statement"),
    [
        ("satellite", GOOD),
        ("satellite", "Great white hall with a flat grey roof next to a round pond"),
        ("satellite", "U-shaped white hall with a flat grey roof around a round pond, opposite a car park"),
        ("drone", "Long white hall with tall windows; a round pond to the left of the hall and a car park behind it."),
        ("ground", "Long white hall with tall windows, a row of trees near the road in front of it."),
    ],
)
def test_sound_statements_pass(platform: str, statement: str) -> None:
    assert judge(answer_of(statement), platform) == ([statement.rstrip(".") + "."], [])


def test_good_statements_survive_bad_ones() -> None:
    others = [
        "White hall with a long flat roof, a row of trees near the road.",
        "White hall and many cars by the road.",
    ]
    again = "Next to a round pond and a car park: long white hall with a flat grey roof.".replace("Next", "Set next")
    texts, reasons = judge(answer_of(GOOD, "Too short.", again, *others, "White hall with a grey roof by a road."))
    assert texts == [GOOD, *others]
    assert reasons == ["too_short", "duplicate", "too_many"]


def test_with_an_image_words_need_not_come_from_the_caption() -> None:
    statement = "Ancient castle surrounded by vineyards, mountains and a river valley."
    assert judge(answer_of(statement), "drone", is_text_only=False) == ([statement], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I-shaped hall beside the road", True),
        ("Café with a façade of glass", True),
        ("Round white arena beside a car park", True),
        ("Ein rundes weißes Stadion neben dem Parkplatz", False),
        ("Une grande salle blanche avec un toit plat", False),
        ("qzx vlorp mnasd uwei krrt bloo", False),
    ],
)
def test_language(text: str, expected: bool) -> None:
    assert _is_english(text) is expected


def test_sameness_looks_at_words_and_numbers() -> None:
    assert say_the_same("A round pond beside a road.", "Beside the roads, round ponds")
    assert not say_the_same("A round pond beside a road.", "A square pond beside a road.")
    assert not say_the_same(
        "Hall of number 1 " + "with a wide flat grey roof" * 9, "Hall of number 2 " + "with a wide flat grey roof" * 9
    )


@pytest.mark.parametrize("platform", PLATFORMS)
def test_prompts_keep_their_own_rules(platform: str) -> None:
    prompt = load_prompts("v1", 4)[platform]
    assert "4 or fewer" in prompt and "227" in prompt and '{"statements"' in prompt and "{max" not in prompt
    assert (PROMPT_DIR / f"{platform}.v1.txt").is_file()
    first, second = build_messages(prompt, "A pond.[MOF] A road.", None, ("it is too long",))
    assert (first["role"], first["content"]) == ("system", prompt)
    assert second["content"].startswith("Description: A pond. A road.\n") and "it is too long" in second["content"]


@pytest.mark.parametrize(
    ("kind", "mode", "size", "sent"),
    [
        ("PNG", "RGBA", (30, 20), "image/png"),
        ("JPEG", "L", (30, 20), "image/jpeg"),
        ("TIFF", "RGB", (30, 20), "image/jpeg"),
        ("PNG", "P", (3000, 1500), "image/jpeg"),
    ],
)
def test_pictures_go_out_small_and_in_a_known_kind(kind: str, mode: str, size: tuple[int, int], sent: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    head, _, coded = image_data_url(buffer.getvalue()).partition(",")
    assert head == f"data:{sent};base64"
    picture = Image.open(io.BytesIO(base64.b64decode(coded)))
    assert picture.size == ((1024, 512) if size[0] > 1024 else size)
    if kind != "TIFF" and size[0] < 1024:
        assert base64.b64decode(coded) == buffer.getvalue()


@pytest.mark.parametrize("length", [0, 3, 200])
def test_broken_pictures_are_reported(length: int) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((2000, 900), 50).save(buffer, "JPEG")
    with pytest.raises(UnreadableImageError):
        image_data_url(buffer.getvalue()[:length])


def test_unknown_prompt_version() -> None:
    with pytest.raises(DataError, match="no prompt version 'v9': use one of v1"):
        load_prompts("v9", 3)
