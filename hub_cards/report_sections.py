"""What the reports of a build say, as Markdown for the card (`report_sections.md`), and how its values are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from pemoe.datasets_scripts.schema import DataError

MAX_CELL_CHARACTERS = 200
TITLES = {"audit": "Audit", "filters": "Filters", "refine": "Refinement", "sanitize": "Sanitizing"}


def report_sections(reports: Mapping[str, Any]) -> dict[str, str]:
    """Title and Markdown of every report of `build.json`, in the order of `TITLES`; a step that was not run says so.

    Raises:
        DataError: a number is missing or not finite.

    Example:
        >>> report_sections({"audit": None, "filters": {}, "refine": None, "sanitize": None})["Filters"]
        'None named.'
    """
    writers, sections = ENVIRONMENT.get_template("report_sections.md").module, {}
    for name, title in TITLES.items():
        report = {} if name == "filters" and not reports.get(name) else reports.get(name)
        try:
            sections[title] = "Not run." if report is None else getattr(writers, name)(report).strip()
        except (jinja2.UndefinedError, TypeError, AttributeError) as error:
            raise DataError(f"build.json: the report {name} is not whole ({error!r}); build the data again") from error
    return sections


def _shown(value: Any) -> str:
    r"""A value for people, text as one cell of a Markdown table.

    Example:
        >>> _shown(1200), _shown(745.25), _shown(None), _shown(True), _shown("rules | 1")
        ('1,200', '745.2', 'none', 'yes', 'rules \\| 1')
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
    line = " ".join(str(value).split()).replace("|", r"\|")
    return line if len(line) <= MAX_CELL_CHARACTERS else line[: MAX_CELL_CHARACTERS - 1] + "…"


def _row(*values: Any) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(_shown, values))} |"


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters["shown"] = _shown
ENVIRONMENT.globals["row"] = _row
