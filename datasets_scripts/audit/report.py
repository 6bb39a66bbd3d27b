"""The audit's report: one HTML file that holds all it shows, and the same as JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from pemoe.common.files import write_json, write_text
from pemoe.datasets_scripts.audit.defects import SEVERITIES
from pemoe.datasets_scripts.audit.directory import Audit
from pemoe.datasets_scripts.audit.images import decode_image
from pemoe.datasets_scripts.audit.report_template import TEMPLATE
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.geotext.files import ImageFiles
from pemoe.datasets_scripts.sources.geotext.names import IMAGE_FOLDERS
from pemoe.datasets_scripts.sources.geotext.records import find_root

THUMBNAIL_PX = 300
BAR_PX = 32

Thumbnails = Callable[[str], "bytes | None"]


def directory_thumbnails(root: str | Path) -> Thumbnails:
    """How the report finds pictures of a tree in GeoText-1652's layout: bytes by image_id, None where there are none.

    Example:
        >>> directory_thumbnails("GeoText1652_Dataset")("0839/0839.jpg")[:2]            # doctest: +SKIP
        b'\\xff\\xd8'
    """
    files = ImageFiles(find_root(root))

    def read(image_id: str) -> bytes | None:
        place_id, _, name = image_id.partition("/")
        for folder in (folder for folders in IMAGE_FOLDERS.values() for folder in folders):
            try:
                found = files.read(f"{folder}/{place_id}", {name}) if name else {}
            except DataError:
                continue  # an unsafe archive is a finding of its own
            if found:
                return found[name]
        return None

    return read


def _thumbnail(data: bytes | None) -> str:
    """A small JPEG in base64; "" for a picture that is missing or broken."""
    image = decode_image(data)[0] if data is not None else None
    if image is None:
        return ""
    image = image.convert("RGB")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


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


def _cards(examples: list[dict[str, Any]], thumbnails: Thumbnails | None) -> list[dict[str, Any]]:
    """The examples with picture and highlighted text."""
    return [
        {
            **example,
            "picture": _thumbnail(thumbnails(example["image_id"])) if thumbnails and example["image_id"] else "",
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


def render_audit(audit: Audit, thumbnails: Thumbnails | None = None) -> str:
    """The report as one HTML page that loads nothing from elsewhere; texts of the data set are escaped.

    Args:
        audit: what was found.
        thumbnails: bytes of a picture by image_id, None where there are none; None shows no pictures.

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
        defects=[(name, {**defect, "cards": _cards(defect["examples"], thumbnails)}) for name, defect in by_severity],
        absent=audit.not_found(),
    )


def write_audit_report(audit: Audit, path: str | Path, thumbnails: Thumbnails | None = None) -> Path:
    """Write the report as a self-contained HTML file.

    Args:
        audit: what was found.
        path: the file; its folder is made.
        thumbnails: see `render_audit`; `directory_thumbnails` serves trees in GeoText-1652's layout.

    Returns:
        The path.

    Example:
        >>> write_audit_report(audit_directory("data"), "audit.html", directory_thumbnails("data")) # doctest: +SKIP
    """
    write_text(Path(path), render_audit(audit, thumbnails))
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
