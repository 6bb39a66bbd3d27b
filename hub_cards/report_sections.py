"""What the reports of a build say, as Markdown for the card: one table each where there is something to report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pemoe.datasets_scripts.schema import DataError

MAX_CELL_CHARACTERS = 200
NOT_RUN = "Not run."
WHAT_NUMBER = ("what", ":number")


def report_sections(reports: Mapping[str, Any]) -> dict[str, str]:
    """Title and Markdown of every report.

    Args:
        reports: those of `build.json`, as the audit, the readers, the refiners and the sanitizer write them.

    Returns:
        One entry for each of audit, filters, refine and sanitize, in that order; a step that was not run says so.

    Raises:
        DataError: a number is missing or not finite.

    Example:
        >>> report_sections({"audit": None, "filters": {}, "refine": None, "sanitize": None})["Filters"]
        'None named.'
    """
    writers: dict[str, tuple[str, Callable[[Any], str]]] = {
        "audit": ("Audit", _audit),
        "filters": ("Filters", _filters),
        "refine": ("Refinement", _refine),
        "sanitize": ("Sanitizing", _sanitize),
    }
    sections = {}
    for name, (title, write) in writers.items():
        report = reports.get(name)
        try:
            sections[title] = NOT_RUN if report is None and name != "filters" else write(report or {})
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"build.json: the report {name} is not whole ({error!r}); build the data again") from error
    return sections


def cell(text: str) -> str:
    r"""Text for one cell of a Markdown table.

    Example:
        >>> cell("rules | 1")
        'rules \\| 1'
    """
    line = " ".join(text.split()).replace("|", r"\|")
    return line if len(line) <= MAX_CELL_CHARACTERS else line[: MAX_CELL_CHARACTERS - 1] + "…"


def shown(value: Any) -> str:
    """A value for people.

    Raises:
        DataError: not a finite number.

    Example:
        >>> shown(1200), shown(745.25), shown(None), shown(True)
        ('1,200', '745.2', 'none', 'yes')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"build.json holds {value} where a number belongs; build the data again")
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return cell(str(value))


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; columns whose heading begins with a colon are numbers, and stand to the right."""
    lines = [[name.lstrip(":") for name in head], ["---:" if name.startswith(":") else "---" for name in head]]
    lines += [[shown(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _audit(report: Mapping[str, Any]) -> str:
    """The defects found, one a line."""
    counts = ", ".join(f"{severity}s: {shown(count)}" for severity, count in report["findings"].items())
    if not report["defects"]:
        return "No defect was found."
    rows = [
        (f"`{name}`", found["severity"], found["count"], found["images"], found["remedy"])
        for name, found in report["defects"].items()
    ]
    return (
        f"Findings in all: {counts}.\n\n{_table(('defect', 'severity', ':findings', ':images', 'what to do'), rows)}"
    )


def _filters(report: Mapping[str, Any]) -> str:
    """What the named filters did, and what a reader of folders left out or missed."""
    named = {name: done for name, done in report.items() if "dropped" in done}
    rows = [(f"`{name}`", done["dropped"], done["changed"]) for name, done in named.items()]
    parts = [_table(("filter", ":dropped", ":changed"), rows) if rows else "None named."]
    noted = [
        (name.replace("_", " "), count)
        for source, counts in report.items()
        if source not in named
        for name, count in counts.items()
        if count
    ]
    return "\n\n".join([*parts, *([_table(("noted while reading", ":files"), noted)] if noted else [])])


def _refine(report: Mapping[str, Any]) -> str:
    """Who refined how much, lengths before and after, what was rejected, and what calls cost, if there were any."""
    refiners = ", ".join(f"{cell(name)} ({shown(count)} captions)" for name, count in report["by_refiner"].items())
    summary = f"By {refiners or 'nobody'}: {shown(report['captions'])} captions → {shown(report['texts'])} texts."
    lengths = report["length_chars"]
    rows = [
        (name, *(lengths[when][key] for key in ("count", "mean", "p10", "p90")))
        for name, when in (("captions", "before"), ("refined texts", "after"))
    ]
    target = f"Aimed at {shown(lengths['target'])} characters, about those of a query."
    rejected = [(reason, entry["count"], entry["meaning"]) for reason, entry in report["rejections"].items()]
    return "\n\n".join(
        [
            summary,
            _table(("characters", ":texts", ":mean", ":10 %", ":90 %"), rows),
            target,
            _table(("rejected for", ":times", "which means"), rejected) if rejected else "Nothing was rejected.",
            *_calls(report),
        ]
    )


def _calls(report: Mapping[str, Any]) -> list[str]:
    """What a language model was asked; nothing where none was."""
    if not report["calls"] and not report["cached"]:
        return []
    cost = report["cost_usd"]
    rows = [
        ("answers received", report["calls"]),
        ("answers from the cache", report["cached"]),
        ("retries", report["retries"]),
        ("prompt tokens", report["prompt_tokens"]),
        ("completion tokens", report["completion_tokens"]),
        ("cost in USD", "not known" if cost is None else cost),
    ]
    return [_table(WHAT_NUMBER, rows)]


def _sanitize(report: Mapping[str, Any]) -> str:
    """How many satellite texts of train were changed, and what removal would have left of the raw ones."""
    rows = [
        ("rows seen, satellite in train", report["satellite_train_rows"]),
        ("rows changed", report["rows_changed"]),
        ("rows that would be empty, left as they were", report["rows_emptied"]),
        ("sentences removed", f"{shown(report['sentences_removed'])} of {shown(report['sentences_seen'])}"),
        (
            "raw captions of which removal leaves nothing",
            f"{shown(report['raw_captions_emptied'])} of {shown(report['raw_captions_seen'])}",
        ),
    ]
    return f"Mode `{cell(report['mode'])}`.\n\n{_table(WHAT_NUMBER, rows)}"
