"""The audit's report: one HTML file that holds all it shows, and the same as JSON."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from pemoe.common.files import write_json, write_text
from pemoe.datasets_scripts.audit.audit import Audit
from pemoe.datasets_scripts.audit.defects import SEVERITIES
from pemoe.datasets_scripts.audit.report_template import TEMPLATE

BAR_PX = 32


def marked_parts(text: str, spans: list[list[int]]) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether it is to be highlighted; overlapping spans are joined.

    Example:
        >>> marked_parts("A hall. [MOF] A pond.", [[8, 13]])
        [('A hall. ', False), ('[MOF]', True), (' A pond.', False)]
    """
    parts, position = [], 0
    for start, end in sorted(spans):
        start = max(start, position)
        if end > start:
            parts += [(text[position:start], False), (text[start:end], True)]
            position = end
    return [part for part in [*parts, (text[position:], False)] if part[0]]


def _cards(examples: list[dict[str, Any]], pictures: dict[str, bytes]) -> list[dict[str, Any]]:
    """The examples with picture in base64, "" where there is none, and highlighted text."""
    return [
        {
            **example,
            "picture": base64.b64encode(pictures.get(example["image_id"], b"")).decode(),
            "parts": marked_parts(example["text"], example["spans"]),
        }
        for example in examples
    ]


def _contents(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """One line of the first table for every split and platform."""
    lines = []
    for split, platforms in audit["images"].items():
        for platform in platforms:
            lengths = audit["statistics"]["caption_chars"].get(split, {}).get(platform)
            regions = audit["statistics"]["regions"].get(split, {}).get(platform, {"regions": 0, "boxes": 0})
            bins = lengths["bins"] if lengths else []
            lines.append(
                {
                    "split": split,
                    "platform": platform,
                    "images": platforms[platform],
                    "places": audit["places"].get(split, {}).get(platform, 0),
                    "captions": audit["captions"].get(split, {}).get(platform, 0),
                    "lengths": lengths,
                    "heights": [round(BAR_PX * count / max(bins)) for count in bins],
                    **regions,
                }
            )
    return lines


def render_audit(audit: Audit) -> str:
    """The report as one HTML page that loads nothing from elsewhere; texts of the data set are escaped.

    Example:
        >>> "Nothing was found." in render_audit(Audit("my data"))
        True
    """
    found = audit.to_dict()
    by_severity = sorted(found["defects"].items(), key=lambda item: SEVERITIES.index(item[1]["severity"]))
    contents = _contents(found)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(TEMPLATE)
    return template.render(
        audit=found,
        contents=contents,
        longest=max(
            (len(line["heights"]) * line["lengths"]["bin_chars"] for line in contents if line["lengths"]), default=0
        ),
        defects=[
            (name, {**defect, "cards": _cards(defect["examples"], audit.pictures)}) for name, defect in by_severity
        ],
        absent=audit.not_found(),
    )


def write_audit_report(audit: Audit, path: str | Path) -> Path:
    """Write the report as a self-contained HTML file.

    Args:
        audit: what was found.
        path: the file; its folder is made.

    Returns:
        The path.

    Example:
        >>> write_audit_report(audit_directory("data"), "audit.html")                   # doctest: +SKIP
    """
    write_text(Path(path), render_audit(audit))
    return Path(path)


def write_audit_json(audit: Audit, path: str | Path) -> Path:
    """Write `Audit.to_dict()` as a JSON file.

    Returns:
        The path.

    Example:
        >>> write_audit_json(audit_directory("data"), "audit.json")                     # doctest: +SKIP
    """
    write_json(Path(path), audit.to_dict())
    return Path(path)
