"""What a refinement changed: counts, lengths before and after, what was rejected and why, and pairs to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from pemoe.datasets_scripts.refine.outcome import REASONS, Prices, Refinement, Tokens
from pemoe.datasets_scripts.refine.rules import TARGET_CHARS

BIN_CHARS, BINS = 50, 24  # of the histograms; the last bin holds all longer texts
EXAMPLES, REJECTED_EXAMPLES = 20, 3
QUOTED_CHARS = 300  # of a rejected text in the report


def describe_lengths(lengths: Counter[int]) -> dict[str, Any]:
    """Statistics of text lengths, given as characters -> number of texts.

    Returns:
        `{"count", "mean", "median", "p10", "p90", "histogram": {"bin_chars", "counts"}}`; the statistics are None
        without texts; a percentile is the smallest length that so many texts do not pass.

    Example:
        >>> described = describe_lengths(Counter({10: 3, 60: 1}))
        >>> described["mean"], described["p90"], described["histogram"]["counts"][:3]
        (22.5, 60, [3, 1, 0])
    """
    counts = [0] * BINS
    for length, number in lengths.items():
        counts[min(length // BIN_CHARS, BINS - 1)] += number
    total = sum(counts)
    result: dict[str, Any] = dict.fromkeys(("mean", "median", "p10", "p90"))
    if total:
        values = np.array(sorted(lengths))
        passed = np.cumsum([lengths[value] for value in values])
        result["mean"] = float(sum(length * number for length, number in lengths.items()) / total)
        for name, share in (("median", 0.5), ("p10", 0.1), ("p90", 0.9)):
            result[name] = int(values[np.searchsorted(passed, share * total)])
    return {"count": total, **result, "histogram": {"bin_chars": BIN_CHARS, "counts": counts}}


class RefineReport:
    """Adds up what happened to rows, in memory that does not grow with them; `budget` gives prices, if there are any.

    The example pairs are drawn with `seed`, each row as likely as any other.

    Example:
        >>> report = RefineReport()
        >>> row = {"image_id": "a", "platform": "drone", "captions": ["The image shows a pond."],
        ...        "refined_captions": ["A pond."]}
        >>> report.add(row, [Refinement(["A pond."], "rules")])
        >>> report.to_dict()["by_refiner"]
        {'rules': 1}
    """

    def __init__(self, budget: Prices | None = None, seed: int = 0) -> None:
        self._budget, self._tokens = budget, Tokens()
        self._generator = np.random.default_rng(seed)
        self._counts: Counter[str] = Counter()
        self._by_refiner: Counter[str] = Counter()
        self._before: Counter[int] = Counter()
        self._after: Counter[int] = Counter()
        self._rejected: dict[str, dict[str, Any]] = {}
        self._pairs: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any], refinements: Sequence[Refinement]) -> None:
        """Count one refined row; `refinements` has one entry for each caption that was refined."""
        texts = row["refined_captions"]
        merged = sum(len(refinement.texts) for refinement in refinements) - len(texts)
        self._counts.update(rows=1, rows_without_texts=int(not texts), texts=len(texts), texts_merged=merged)
        self._counts.update(captions=len(row["captions"]), captions_refined=len(refinements))
        self._before.update(len(caption) for caption in row["captions"])
        self._after.update(len(text) for text in texts)
        for refinement in refinements:
            self._add_refinement(refinement)
        if texts:
            self._draw(row, refinements)

    def _add_refinement(self, refinement: Refinement) -> None:
        """Count one caption."""
        self._by_refiner[refinement.refiner] += 1
        self._tokens += refinement.tokens
        self._counts.update(calls=refinement.calls, cached=refinement.cached, retries=refinement.retries)
        for rejection in refinement.rejections:
            entry = self._rejected.setdefault(rejection.reason, {"count": 0, "examples": []})
            entry["count"] += 1
            example = {"text": rejection.text[:QUOTED_CHARS], "detail": rejection.detail[:QUOTED_CHARS]}
            if len(entry["examples"]) < REJECTED_EXAMPLES and example not in entry["examples"]:
                entry["examples"].append(example)

    def _draw(self, row: dict[str, Any], refinements: Sequence[Refinement]) -> None:
        """Keep a row as an example with the same probability as every other one (reservoir sampling)."""
        self._counts["pairs"] += 1
        place = int(self._generator.integers(self._counts["pairs"]))
        if len(self._pairs) < EXAMPLES:
            place = len(self._pairs)
            self._pairs.append({})
        if place < EXAMPLES:
            pair = {"image_id": row["image_id"], "platform": row["platform"], "captions": list(row["captions"])}
            refiners = sorted({refinement.refiner for refinement in refinements})
            self._pairs[place] = {**pair, "texts": list(row["refined_captions"]), "refiners": refiners}

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types.

        Returns:
            `{"rows", "rows_without_texts", "captions", "captions_refined", "texts", "texts_merged", "calls", "cached",
            "retries", "prompt_tokens", "completion_tokens", "cost_usd", "by_refiner": {refiner: captions},
            "rejections": {reason: {"count", "meaning", "examples": [{"text", "detail"}]}}, "length_chars": {"target",
            "before", "after"} (see `describe_lengths`), "examples": [{"image_id", "platform", "captions", "texts",
            "refiners"}]}`.
        """
        names = ("rows", "rows_without_texts", "captions", "captions_refined", "texts", "texts_merged")
        by_count = sorted(self._rejected.items(), key=lambda item: -item[1]["count"])
        before, after = describe_lengths(self._before), describe_lengths(self._after)
        return {
            **{name: self._counts[name] for name in (*names, "calls", "cached", "retries")},
            "prompt_tokens": self._tokens.prompt,
            "completion_tokens": self._tokens.completion,
            "cost_usd": self._budget.usd(self._tokens) if self._budget is not None else None,
            "by_refiner": dict(self._by_refiner),
            "rejections": {reason: {**entry, "meaning": REASONS[reason]} for reason, entry in by_count},
            "length_chars": {"target": TARGET_CHARS, "before": before, "after": after},
            "examples": sorted(self._pairs, key=lambda pair: pair["image_id"]),
        }
