"""Joins the reports of a build's shards, so that a build in several goes tells what one in a single go would."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pemoe.datasets_scripts.refine.report import describe_lengths
from pemoe.datasets_scripts.refine.rules import TARGET_CHARS

EXAMPLES = 20  # kept of every list of examples


def join_reports(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Add up reports of one form: numbers are summed, lists put together up to 20 entries, other values kept.

    Args:
        parts: reports of the same step, each of other rows.

    Returns:
        A report of the same form; None without parts. Means and percentiles do not add up: see `text_lengths`.

    Example:
        >>> join_reports([{"rows": 2, "by": {"a": 1}}, {"rows": 3, "by": {"b": 4}, "cost_usd": None}])
        {'rows': 5, 'by': {'a': 1, 'b': 4}, 'cost_usd': None}
    """
    joined: dict[str, Any] | None = None
    for part in parts:
        joined = part if joined is None else _join(joined, part)
    return joined


def _join(first: Any, second: Any) -> Any:
    """Two values of the same place in two reports."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {
            key: _join(first[key], second[key]) if key in first and key in second else {**first, **second}[key]
            for key in [*first, *(key for key in second if key not in first)]
        }
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


def text_lengths(directory: Path) -> dict[str, Any]:
    """Lengths in characters of the captions of the train split and of their refined texts, from built shards.

    Returns:
        `{"target", "before", "after"}`, the latter as `describe_lengths` gives them.
    """
    lengths: dict[str, Counter[int]] = {"captions": Counter(), "refined_captions": Counter()}
    for path in directory.glob("*/train-*.parquet"):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(lengths))
            for column, counter in lengths.items():
                counter.update(len(text) for texts in table[column].to_pylist() for text in texts)
    before, after = map(describe_lengths, lengths.values())
    return {"target": TARGET_CHARS, "before": before, "after": after}
