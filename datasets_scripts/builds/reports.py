"""Joins the reports of a build's shards, so that a build in several goes reports what one in a single go would."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pemoe.datasets_scripts.refine.report import describe_lengths
from pemoe.datasets_scripts.refine.rules import TARGET_CHARS

EXAMPLES = 20  # kept of every list of examples


def join_reports(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Add up reports of one form: numbers are summed, lists put together up to 20 entries, other values kept.

    The parts are reports of the same step, each of other rows; None without parts. Means and percentiles do not add
    up: see `describe_texts`.

    Example:
        >>> join_reports([{"rows": 2, "by": {"a": 1}}, {"rows": 3, "by": {"b": 4}, "cost_usd": None}])
        {'rows': 5, 'by': {'a': 1, 'b': 4}, 'cost_usd': None}
    """
    return functools.reduce(_join, parts, None)


def _join(first: Any, second: Any) -> Any:
    """Two values of the same place in two reports."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {key: _join(first.get(key), second.get(key)) for key in {**first, **second}}
    if isinstance(first, list) and isinstance(second, list):
        return (first + second)[:EXAMPLES]
    is_number = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in (first, second)]
    return first + second if all(is_number) else (second if first is None else first)


def subtract_report(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What was counted between two reports of the same counters.

    Example:
        >>> subtract_report({"mof_joint": {"changed": 5}}, {"mof_joint": {"changed": 2}})
        {'mof_joint': {'changed': 3}}
    """
    return {
        key: subtract_report(value, before[key]) if isinstance(value, dict) else value - before[key]
        for key, value in after.items()
    }


def describe_texts(before: Mapping[Any, int], after: Mapping[Any, int]) -> dict[str, Any]:
    """The lengths of texts before and after refining, as a report of refining holds them: target, before, after.

    `before` and `after` map characters to the number of texts; the keys may be text, as JSON makes them.

    Example:
        >>> describe_texts({"10": 2, "40": 1}, {})["before"]["mean"]
        20.0
    """
    before, after = (
        describe_lengths(Counter({int(length): number for length, number in counts.items()}))
        for counts in (before, after)
    )
    return {"target": TARGET_CHARS, "before": before, "after": after}
