"""Invariant: sentences end where a reader would end them, and nothing but joints, spaces and cut tails is lost."""

from __future__ import annotations

import pytest

from pemoe.datasets_scripts.text.sentences import (
    clean_caption,
    complete_sentences,
    keep_clauses,
    normalize_space,
    split_sentences,
)

LONG = (
    "A wide white hall with a flat roof stands between two lawns and a small pond. Many trees line the road beside it."
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A hall. A pond.", ["A hall.", "A pond."]),
        ("a hall. a pond.", ["a hall.", "a pond."]),
        ("round white arena beside a car park", ["round white arena beside a car park"]),
        (
            "St. Mary's church has a spire. Dr. Brown Hall is red.",
            ["St. Mary's church has a spire.", "Dr. Brown Hall is red."],
        ),
        ("It stands on Main St. The yard is paved.", ["It stands on Main St.", "The yard is paved."]),
        ("The pond is approx. 30 m wide. It is round.", ["The pond is approx. 30 m wide.", "It is round."]),
        ("Trees, hedges, etc. surround it. A road.", ["Trees, hedges, etc. surround it.", "A road."]),
        ("It has wings, e.g. a long one. A road.", ["It has wings, e.g. a long one.", "A road."]),
        ("A wall 3.5 m high. The J. Smith Hall.", ["A wall 3.5 m high.", "The J. Smith Hall."]),
        ("A hall... and a pond. A road", ["A hall... and a pond.", "A road"]),
        ("A hall… A pond.", ["A hall…", "A pond."]),
        ("Is it a hall? Yes! It is.", ["Is it a hall?", "Yes!", "It is."]),
        ('A sign says "Hall." It is red.', ['A sign says "Hall."', "It is red."]),
        ("A roof.The wall is red.", ["A roof.", "The wall is red."]),
        ("1. The hall is red. 2. The pond is round.", ["1. The hall is red.", "2. The pond is round."]),
        ("A hall.[MOF]A pond", ["A hall.", "A pond"]),
        ("A hall with [mof] A pond.", ["A hall with", "A pond."]),
        ("  A \n hall .\tA  pond , too. ", ["A hall.", "A pond, too."]),
        ("", []),
        (" [MOF] ", []),
    ],
)
def test_split_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_splitting_loses_no_words():
    text = f"{LONG} See St. Mary's, approx. 3.5 m high... it is (very) old! No. 5 is red"
    assert " ".join(split_sentences(text)) == normalize_space(text)


def test_truncation():
    assert complete_sentences(f"{LONG} On the far side of the lawn there is a lo") == split_sentences(LONG)
    assert complete_sentences(f"{LONG} A long green lawn with a path ends i [MOF] A pond.") == [
        *split_sentences(LONG),
        "A pond.",
    ]
    assert complete_sentences(f'{LONG} It says "Hall."')[-1] == 'It says "Hall."'
    assert complete_sentences("A hall. A pond") == ["A hall.", "A pond"]
    assert complete_sentences(LONG.replace(".", "")) == [LONG.replace(".", "")]
    assert complete_sentences(" " * 400) == [] and complete_sentences("no stop " * 40) == [("no stop " * 40).strip()]
    long = "A hall with a flat roof " * 8
    assert complete_sentences(long + "and the") == [] and complete_sentences(long + "and the.") == [long + "and the."]
    assert complete_sentences("A hall and the") == ["A hall and the"]


def test_clean_caption():
    assert clean_caption("A hall.  [MOF]\nA pond") == "A hall. A pond"
    assert clean_caption("[MOF]") == ""


def test_keep_clauses():
    text = "A gate leads in, which is old, and a pond lies beside it; the roof is red"
    assert keep_clauses(text, lambda clause: "gate" not in clause) == "a pond lies beside it; the roof is red"
    assert keep_clauses(text, lambda clause: "pond" not in clause) == "A gate leads in, which is old; the roof is red"
    assert keep_clauses(text, lambda clause: False) == ""
