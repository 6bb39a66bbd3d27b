"""Invariant: what a query denies is read as denied and is no part of what is looked for; what only looks like a
negation is left as it is."""

from __future__ import annotations

import pytest

from pemoe.retrieval.locating.queries import positive_text, read_statements, refine

NEGATED = {  # query: (what is looked for, what is denied)
    "not the one with the fountain": ("", ["the one with the fountain"]),
    "red building without a pond": ("red building", ["a pond"]),
    "round arena but not the one beside the car park": ("round arena", ["the one beside the car park"]),
    "no trees": ("", ["trees"]),
    "There are no trees, cars or benches, and a road runs by": ("a road runs by", ["trees, cars or benches"]),
    "It isn't brick.": ("", ["brick"]),
    "it isnt brick": ("", ["brick"]),
    "It isn’t brick": ("", ["brick"]),
    "The roof isn't red.": ("", ["The roof red"]),
    "windows are not visible": ("", ["windows visible"]),
    "The round arena is not made of brick": ("The round arena", ["made of brick"]),
    "It doesn't have a pond but has a lawn.": ("has a lawn", ["a pond"]),
    "I can't see a pond": ("", ["a pond"]),
    "without trees, cars or people": ("", ["trees, cars or people"]),
    "neither a pond nor a fountain": ("", ["a pond or a fountain"]),
    "a lawn instead of a pond": ("a lawn", ["a pond"]),
    "not a church but a school": ("a school", ["a church"]),
    "white arena that does not stand in a park, with two storeys": (
        "white arena, with two storeys",
        ["stand in a park"],
    ),
    "red hall. Not the tall one. No pond.": ("red hall.", ["the tall one", "pond"]),
    "a building with no windows and with a flat roof": ("a building, with a flat roof", ["windows"]),
    "a hall, devoid of trees; it lacks a tower": ("a hall", ["trees", "a tower"]),
    "RED HALL, NOT BLUE": ("RED HALL", ["BLUE"]),
}
LEFT_ALONE = (
    "not far from the road",
    "not too far from the road",
    "a hall, no longer used",
    "nothing but lawn around it",
    "not only a pond but also a bridge",
    "not just one pond",
    "no fewer than three towers",
    "not more than two storeys",
    "The north hall with a knot of notable oaks",
    "another notched annex, nothing there",
    "No. 10 beside the no-parking sign",
    "without doubt a church",
    "not without charm",
    "not all trees are tall",
    "Nottingham station",
)


@pytest.mark.parametrize("query", NEGATED)
def test_what_is_denied_is_not_looked_for(query: str) -> None:
    wanted, denied = NEGATED[query]
    statements = read_statements(query)
    assert positive_text(statements) == wanted
    assert [one.content for one in statements if one.negated] == denied


@pytest.mark.parametrize("query", LEFT_ALONE)
def test_what_only_looks_like_a_negation_is_left_alone(query: str) -> None:
    assert [(one.content, one.negated) for one in read_statements(query)] == [(query, False)]


@pytest.mark.parametrize("query", ["", " ", "...", "no", "It isn't."])
def test_a_query_that_says_nothing_has_no_statement(query: str) -> None:
    assert read_statements(query) == ()


def test_refining_is_saying_all_at_once() -> None:
    texts = refine(refine("red hall", "not the tall one"), "with two storeys")
    assert texts == ("red hall", "not the tall one", "with two storeys")
    assert read_statements(texts) == read_statements(["red hall", "not the tall one", "with two storeys"])
    assert [one.negated for one in read_statements(texts)] == [False, True, False]


def test_reading_takes_time_in_proportion_to_length() -> None:
    for text in ("no trees, " * 2000, "not " * 5000, "," * 20000, "without a pond or " * 2000, "and " * 5000):
        assert isinstance(read_statements(text), tuple)
