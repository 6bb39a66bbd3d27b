"""Invariant: reports of shards, joined, tell what one report of all rows tells, however the rows are cut."""

from __future__ import annotations

import copy
import json
import random
import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pemoe.datasets_scripts.builds.reports import EXAMPLES, describe_texts, join_reports, subtract_report
from pemoe.datasets_scripts.campus.reader import CampusReader
from pemoe.datasets_scripts.refine import RefineReport, RuleRefiner, refine_rows
from pemoe.datasets_scripts.refine.outcome import Refinement, Rejection, Tokens
from pemoe.datasets_scripts.refine.rules import TARGET_CHARS
from pemoe.datasets_scripts.sanitize import SanitizeReport, sanitize_rows

READER = CampusReader(train_places=12, test_places=2, size_px=32)
NOT_ADDED = ("examples", "length_chars")  # drawn anew for each report; taken from the shards


@pytest.fixture(scope="module")
def raw_rows() -> list[dict]:
    return list(READER.rows("train", READER.place_ids("train")))


@pytest.fixture(scope="module")
def rows(raw_rows: list[dict]) -> list[dict]:
    """The same refined; the rules leave no directions to sanitize."""
    return list(refine_rows(raw_rows, RuleRefiner()))


def cuts(items: list, seed: int) -> Iterator[list]:
    """The items in two to five runs, some of them empty."""
    rng = random.Random(seed)
    marks = sorted(rng.randrange(len(items) + 1) for _ in range(rng.randint(1, 4)))
    for start, stop in zip([0, *marks], [*marks, len(items)], strict=True):
        yield items[start:stop]


def counted(report: Any) -> Any:
    """A report without what does not add up."""
    if not isinstance(report, dict):
        return report
    return {key: counted(value) for key, value in report.items() if key not in NOT_ADDED}


def sanitized(rows: list[dict]) -> dict[str, Any]:
    report = SanitizeReport()
    for _ in sanitize_rows(rows, "remove", report):
        pass
    return report.to_dict()


def outcomes(row: dict, rng: random.Random) -> list[Refinement]:
    """One for each caption, as a model might have given it."""
    reasons = rng.choices(("chatter", "refusal", "not_json"), k=rng.randrange(3))
    rejections = tuple(Rejection(reason, f"text {rng.random()}", "reported") for reason in reasons)
    refiner = rng.choice(("llm", "rule_fallback"))
    return [
        Refinement([text], refiner, rejections, rng.randrange(3), rng.randrange(2), len(reasons), Tokens(9, 4))
        for text in row["captions"]
    ]


def refined(pairs: list[tuple[dict, list[Refinement]]]) -> dict[str, Any]:
    report = RefineReport()
    for row, refinements in pairs:
        report.add(row, refinements)
    return report.to_dict()


@pytest.mark.parametrize("seed", range(20))
def test_joined_reports_tell_what_one_tells(raw_rows: list[dict], rows: list[dict], seed: int) -> None:
    pairs = [(row, outcomes(row, random.Random(f"{seed} {row['image_id']}"))) for row in rows]
    for report_of, items in ((refined, pairs), (sanitized, raw_rows)):
        parts = [report_of(part) for part in cuts(items, seed)]
        given = copy.deepcopy(parts)
        joined, whole = join_reports(parts), report_of(items)
        assert counted(joined) == counted(whole)
        assert parts == given, "the parts are not written to"
        assert whole.get("rejections", {}).keys() == joined.get("rejections", {}).keys()


def test_the_cases_are_not_empty(raw_rows: list[dict], rows: list[dict]) -> None:
    reported = refined([(row, outcomes(row, random.Random(row["image_id"]))) for row in rows])
    assert len(reported["rejections"]) == 3 and reported["prompt_tokens"] == 9 * reported["captions_refined"] > 0
    assert sanitized(raw_rows)["sentences_removed"] > 10 and len(sanitized(raw_rows)["frames"]) > 1


@pytest.mark.parametrize("seed", range(20))
def test_sums_of_counters_equal_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    events = [("abc"[rng.randrange(3)], "xyz"[rng.randrange(3)], rng.randrange(5)) for _ in range(60)]

    def report_of(part: list[tuple[str, str, int]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for outer, inner, number in part:
            table.setdefault(outer, Counter())[inner] += number
        by = {outer: dict(counter) for outer, counter in table.items()}
        return {"mode": "remove", "by": by, "numbers": [number for *_, number in part], "found": True}

    joined = join_reports([report_of(part) for part in cuts(events, seed)])
    whole = report_of(events)
    assert joined == {**whole, "numbers": whole["numbers"][:EXAMPLES]}
    assert joined["found"] is True


def test_what_is_unknown_in_some_parts_comes_from_the_others() -> None:
    assert join_reports([]) is None
    assert join_reports([{}, {}]) == {}
    assert join_reports([{"cost_usd": None}, {"cost_usd": 0.25}, {"cost_usd": None}, {"cost_usd": 0.5}]) == {
        "cost_usd": 0.75
    }
    assert list(join_reports([{"b": 1}, {"a": 2, "b": 1}])) == ["b", "a"]


@pytest.mark.parametrize("seed", range(10))
def test_a_difference_added_again_gives_the_later_report(seed: int) -> None:
    rng = random.Random(seed)
    before = {name: {"dropped": rng.randrange(9), "changed": rng.randrange(9)} for name in "abcd"}
    after = {name: {key: value + rng.randrange(9) for key, value in done.items()} for name, done in before.items()}
    difference = subtract_report(after, before)
    assert join_reports([before, difference]) == after
    assert all(
        difference[name][key] == after[name][key] - before[name][key] for name in "abcd" for key in before[name]
    )
    assert subtract_report({}, {}) == {}


def percentile(lengths: list[int], share: float) -> int:
    """The smallest length that so many texts do not pass."""
    return next(
        length for length in sorted(lengths) if sum(other <= length for other in lengths) >= share * len(lengths)
    )


def check_lengths(reported: dict[str, Any], texts: list[str]) -> None:
    lengths = [len(text) for text in texts]
    assert reported["count"] == len(lengths) > 0
    assert reported["mean"] == pytest.approx(statistics.fmean(lengths))
    shares = {"median": 0.5, "p10": 0.1, "p90": 0.9}
    assert {name: reported[name] for name in shares} == {
        name: percentile(lengths, share) for name, share in shares.items()
    }
    bins, size = reported["histogram"]["counts"], reported["histogram"]["bin_chars"]
    assert bins == [sum(min(n // size, len(bins) - 1) == number for n in lengths) for number in range(len(bins))]


def test_lengths_are_those_of_all_training_texts(rows: list[dict]) -> None:
    """Counted per shard, joined as JSON gives them back."""
    hidden = [{**row, "platform": None, "image_id": f"{row['image_id']}?"} for row in rows[:5]]
    shards = [rows[:20], rows[20:], [row for row in rows if row["platform"] == "drone"] * 6, hidden]
    columns = ("captions", "refined_captions")
    records = [
        {column: Counter(len(text) for row in shard for text in row[column]) for column in columns} for shard in shards
    ]
    joined = join_reports(json.loads(json.dumps(records)))
    lengths = describe_texts(*(joined[column] for column in columns))
    assert lengths["target"] == TARGET_CHARS
    for name, column in zip(("before", "after"), columns, strict=True):
        check_lengths(lengths[name], [text for shard in shards for row in shard for text in row[column]])


def test_no_texts_have_no_lengths() -> None:
    lengths = describe_texts({}, {})
    assert (lengths["before"]["count"], lengths["after"]["mean"]) == (0, None)
    assert sum(lengths["before"]["histogram"]["counts"]) == 0
