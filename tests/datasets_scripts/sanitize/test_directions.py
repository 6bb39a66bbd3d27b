"""Invariant: skipping rules whose trigger words are absent finds exactly what trying every rule finds."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pemoe.datasets_scripts.sanitize import directions
from pemoe.datasets_scripts.sanitize.directions import FRAMES, find_directions
from pemoe.datasets_scripts.sanitize.lookalikes import LOOKALIKES
from pemoe.datasets_scripts.sanitize.rules import FAMILIES, FIRM_RULES, RULES

REAL = os.environ.get("PEMOE_REAL_CAMPUS")
ALL_RULES = (*FIRM_RULES, *LOOKALIKES, *RULES)


def _sentences() -> list[str]:
    path = Path(__file__).with_name("directional_sentences.tsv")
    with path.open(encoding="utf-8", newline="") as file:
        return [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def _found_by_all(text: str) -> list[directions.Direction]:
    return directions._search(text, ALL_RULES)


def test_every_rule_is_whole():
    families = set(FAMILIES.groupindex)
    assert all(rule.family in families for rule in ALL_RULES)
    assert all(rule.frame in FRAMES and rule.reason for rule in (*FIRM_RULES, *RULES))
    assert not any(rule.frame for rule in LOOKALIKES)
    assert not any(rule.pattern.search("") for rule in ALL_RULES)


def test_prefilter_changes_nothing_on_sentences():
    sentences = _sentences()
    assert [find_directions(text) for text in sentences] == [_found_by_all(text) for text in sentences]
    lowered = [text.lower().rstrip(".") for text in sentences]
    assert [find_directions(text) for text in lowered] == [_found_by_all(text) for text in lowered]


def test_prefilter_changes_nothing_on_word_soup():
    words = sorted({word for sentence in _sentences() for word in sentence.split()})
    rng = np.random.default_rng(0)
    for _ in range(400):
        text = " ".join(rng.choice(words, size=12))
        assert find_directions(text) == _found_by_all(text), text


def test_every_rule_is_used_by_some_sentence():
    text = "\n".join(_sentences())
    unused = [rule.pattern.pattern for rule in ALL_RULES if not any(map(rule.pattern.search, text.split("\n")))]
    assert unused == []


@pytest.mark.skipif(REAL is None, reason="PEMOE_REAL_CAMPUS does not name a directory of real tiles")
def test_prefilter_changes_nothing_on_real_captions():
    records = json.loads((Path(REAL) / "train.json").read_text(encoding="utf-8"))
    assert all(find_directions(record["caption"]) == _found_by_all(record["caption"]) for record in records)
