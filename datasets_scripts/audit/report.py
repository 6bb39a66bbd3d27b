"""The audit's report: one HTML file that holds all it shows, and the same as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pemoe.common.files import write_json
from pemoe.common.pages import jpeg_url, render_page, write_page
from pemoe.datasets_scripts.audit.audit import Audit
from pemoe.datasets_scripts.audit.defects import SEVERITIES

_BODY = """
{% macro badge(severity) %}<span class="badge {{ severity }}">{{ severity }}</span>{% endmacro %}
<p class="muted">
{% if not defects %}Nothing was found.{% endif %}
{% for severity, count in audit.findings.items() if defects %}
{{ count }} {{ severity }}{{ "s" if count != 1 }}{{ ", " if not loop.last else "." }}
{%- endfor %}

An error stops a build unless its filter is named; a warning is kept unless filtered; a note is worth knowing.</p>

<h2>What is there</h2>
{% call table(["split", "platform", ":images", ":places", ":captions", ":mean length", ":5 to 95 %",
  "lengths in characters", ":boxes / regions"]) %}
{% for row in contents %}
<tr><td>{{ row.split }}</td><td>{{ row.platform }}</td><td class="n">{{ row.images }}</td>
<td class="n">{{ row.places }}</td><td class="n">{{ row.captions }}</td>
<td class="n">{{ row.lengths.mean_chars if row.lengths else "" }}</td>
<td class="n">{% if row.lengths %}{{ row.lengths.p05_chars }} to {{ row.lengths.p95_chars }}{% endif %}</td>
<td>{% if row.bins %}{{ histogram(row.bins, row.lengths.bin_chars, 170, 34, 1) }}{% endif %}</td>
<td class="n">{{ row.boxes }} / {{ row.regions }}</td></tr>
{% endfor %}
{% endcall %}
{% if audit.statistics.image_sizes_px %}
<p class="muted">Picture sizes, the most frequent:
{% for platform, sizes in audit.statistics.image_sizes_px.items() %}
{{ platform }}:
{%- for size, count in sizes.items() %} {{ size }} px ({{ count }}){{ "," if not loop.last }}{% endfor %}
{{- "; " if not loop.last }}
{% endfor %}</p>
{% endif %}

<h2>What was found</h2>
{% if defects %}
{% call table(["", "defect", ":findings", ":images or places"]) %}
{% for name, defect in defects %}
<tr><td>{{ badge(defect.severity) }}</td><td><a href="#{{ name }}">{{ name }}</a></td>
<td class="n">{{ defect.count }}</td><td class="n">{{ defect.images }}</td></tr>
{% endfor %}
{% endcall %}
{% endif %}
<p class="muted">Looked for and not found: {{ absent | join(", ") or "nothing" }}.</p>

{% for name, defect in defects %}
<h3 id="{{ name }}">{{ badge(defect.severity) }} {{ name }}</h3>
<p>{{ defect.what }}</p>
<p class="muted">{{ defect.count }} finding{{ "s" if defect.count > 1 }} on {{ defect.images }}
{{ "place" if defect.scope == "place" else "image" }}{{ "s" if defect.images > 1 }}.
What to do: {{ defect.remedy }}.</p>
<div class="cards">
{% for example in defect.cards %}{% call card(example.url) %}
<code>{{ example.image_id or "" }}</code> <span class="muted">{{ example.split or "" }}</span>
<div>{{ example.detail }}</div>
{% if example.parts %}<p class="muted">
{%- for part, marked in example.parts -%}
{% if marked %}<mark>{{ part }}</mark>{% else %}{{ part }}{% endif %}
{%- endfor -%}
</p>{% endif %}
{% endcall %}{% endfor %}
</div>
{% endfor %}
"""


def _marked_parts(text: str, spans: list[list[int]]) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether it is to be highlighted; overlapping spans are joined."""
    parts, position = [], 0
    for start, end in sorted(spans):
        start = max(start, position)
        if end > start:
            parts += [(text[position:start], False), (text[start:end], True)]
            position = end
    return [part for part in [*parts, (text[position:], False)] if part[0]]


def _cards(defect: dict[str, Any], pictures: dict[str, bytes]) -> list[dict[str, Any]]:
    """The examples of a defect with picture (None for those of a place, which have none) and text in parts."""
    cards = []
    for example in defect["examples"]:
        data = pictures.get(example["image_id"])
        url = jpeg_url(data) if data else None if defect["scope"] == "place" else ""
        cards.append({**example, "url": url, "parts": _marked_parts(example["text"], example["spans"])})
    return cards


def _contents(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """One line of the first table for every split and platform; all histograms have the same number of bins."""
    statistics, lines = audit["statistics"], []
    longest = max((len(one["bins"]) for by in statistics["caption_chars"].values() for one in by.values()), default=0)
    for split, platforms in audit["images"].items():
        for platform, images in platforms.items():
            lengths = statistics["caption_chars"].get(split, {}).get(platform)
            padded = [*lengths["bins"], *[0] * (longest - len(lengths["bins"]))] if lengths else []
            counts = {what: audit[what].get(split, {}).get(platform, 0) for what in ("places", "captions")}
            regions = statistics["regions"].get(split, {}).get(platform, {"regions": 0, "boxes": 0})
            names = {"split": split, "platform": platform, "images": images}
            lines.append({**names, **counts, **regions, "lengths": lengths, "bins": padded})
    return lines


def render_audit(audit: Audit) -> str:
    """The report as one HTML page that loads nothing from elsewhere; texts of the data set are escaped.

    Example:
        >>> "Nothing was found." in render_audit(Audit("my data"))
        True
    """
    found = audit.to_dict()
    by_severity = sorted(found["defects"].items(), key=lambda item: SEVERITIES.index(item[1]["severity"]))
    return render_page(
        f"Audit of {audit.root_name}",
        _BODY,
        audit=found,
        contents=_contents(found),
        defects=[(name, {**defect, "cards": _cards(defect, audit.pictures)}) for name, defect in by_severity],
        absent=audit.not_found(),
    )


def write_audit_report(audit: Audit, path: str | Path) -> Path:
    """Write the report as a self-contained HTML file; see `write_page`."""
    return write_page(path, render_audit(audit))


def write_audit_json(audit: Audit, path: str | Path) -> Path:
    """Write `Audit.to_dict()` as a JSON file; returns the path."""
    write_json(Path(path), audit.to_dict())
    return Path(path)
