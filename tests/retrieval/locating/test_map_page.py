"""Invariant: the page of an answer says what the answer says, each place's pin and card under one number, escapes it,
and asks for nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pemoe.common.place_cards import describe_verdict
from pemoe.retrieval.locating.map_page import render_map_page
from pemoe.retrieval.locating.results import Evidence, LocatedPlace, LocateResult, SeenPicture

EVIL = '"><script>alert(1)</script>'
JPEG = b"\xff\xd8\xff\xe0small"
PLACES = (
    LocatedPlace(
        "p1", "arena", 40.109, -88.1336, 0.5, 0.83, ("drone", "ground"),
        (SeenPicture("a.jpg", "drone", 0.5, thumbnail=JPEG), SeenPicture("b.jpg", "ground", 0.4)),
        (Evidence("a round arena", 0.5, 2.0), Evidence("a fountain", 0.1, -0.4, negated=True)),
    ),
    LocatedPlace("p2", EVIL, -33.86, 151.2, 0.3, 0.001, ("satellite",)),
    LocatedPlace("p3", "nowhere", None, None, 0.2, None, ("drone",)),
)  # fmt: skip
RESULT = LocateResult(
    ("a round arena", EVIL), PLACES, {"satellite": 0.2, "drone": 0.8}, "found", 0.1, 900, ("a note",)
)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text, self.inside = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside not in ("style", "script"):
            self.text.append(data)


def test_pins_and_cards_share_their_numbers() -> None:
    tags = Tags(render_map_page(RESULT)).tags
    pins = [one["href"] for tag, one in tags if tag == "a" and one.get("class") == "pin"]
    cards = [one["id"] for tag, one in tags if one.get("class") == "place"]
    assert pins == ["#place-1", "#place-2"] and cards == ["place-1", "place-2", "place-3"]


def test_the_page_says_what_the_answer_says() -> None:
    page = Tags(render_map_page(RESULT))
    text = " ".join(" ".join(page.text).split())
    facts = ["Most likely: arena (83 %)", "900 pictures", "not among theirs", "a note", "40.109000, -88.133600"]
    facts += ["under 1 %", "20 %", "80 %", "No coordinates are known", "a fountain", "+2.0 σ", "-0.4 σ"]
    facts += ["1 without coordinates"]
    assert [said for said in facts if said not in text] == []
    links = [one["href"] for tag, one in page.tags if tag == "a"]
    assert "geo:-33.860000,151.200000" in links
    assert "https://www.openstreetmap.org/?mlat=40.109000&mlon=-88.133600#map=17/40.109000/-88.133600" in links


def test_the_page_escapes_and_asks_for_nothing() -> None:
    page = render_map_page(RESULT)
    tags = Tags(page).tags
    assert [tag for tag, _ in tags].count("script") == 1 and EVIL not in page
    loaded = [one[name] for tag, one in tags for name in ("src", "href") if name in one and tag != "a"]
    assert loaded and all(one.startswith("data:image/") for one in loaded)
    assert not re.search(r"@import|url\(", page) and 'name="viewport"' in page


@pytest.mark.parametrize(
    ("verdict", "elsewhere", "said"),
    [
        ("found", 0.1, "Most likely: arena (83 %)"),
        ("not in this gallery", 0.71, "Probably not in this gallery (71 %). The nearest:"),
        ("not calibrated", None, "Best match: arena (83 %)"),
    ],
)
def test_verdicts_are_words(verdict: str, elsewhere: float | None, said: str) -> None:
    result = replace(RESULT, verdict=verdict, probability_elsewhere=elsewhere)
    assert describe_verdict(result.as_json()) == said


def test_an_empty_answer_is_a_page_too() -> None:
    page = render_map_page(LocateResult(("arena",), (), {"drone": 1.0}, "not in this gallery", None, 0))
    assert "Nothing to show" in page and "No picture of this gallery" in page and 'class="pin"' not in page
