"""The refinement report as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pemoe.common.pages import render_page, write_page
from pemoe.datasets_scripts.refine.report import RefineReport

_BODY = """
<div class="facts">
{% for name, value in facts.items() %}<div><b>{{ value }}</b>{{ name }}</div>{% endfor %}
</div>

<h2>Lengths</h2>
<div class="figures">
{% for title, counts in histograms.items() %}
<figure><figcaption><b>{{ title }}</b>, characters per text</figcaption>
{{ histogram(counts, bin_chars, 500, 150, 6, aim=lengths.target) }}</figure>
{% endfor %}
</div>
{% call table(["characters", ":count", ":mean", ":median", ":p10", ":p90"]) %}
{% for title in histograms %}
<tr><td>{{ title }}</td>
{% for name in ("count", "mean", "median", "p10", "p90") %}<td class="n">{{ lengths[title][name] | number }}</td>
{% endfor %}</tr>
{% endfor %}
{% endcall %}

<h2>Rejected</h2>
{% if report.rejections %}
{% call table(["reason", ":times", "such as"]) %}
{% for reason, entry in report.rejections.items() %}
<tr><td><b>{{ reason }}</b><br><span class="muted">{{ entry.meaning }}</span></td>
<td class="n">{{ entry.count | number }}</td>
<td>{% for example in entry.examples[:2] %}
<div>{{ example.detail }}: <code>{{ example.text[:200] or "–" }}</code></div>
{% endfor %}</td></tr>
{% endfor %}
{% endcall %}
{% else %}<p>Nothing was rejected.</p>{% endif %}

<h2>Before and after</h2>
{% for example in report.examples %}
<section class="pair">
<h3>{{ example.image_id }} · {{ example.platform }} · {{ example.refiners | join(", ") | replace("_", " ") }}</h3>
{% for title, texts in (("before", example.captions), ("after", example.texts)) %}
<div><b>{{ title }}</b>
<ul>{% for text in texts %}<li>{{ text }} <small class="muted">{{ text | length }}</small></li>{% endfor %}</ul></div>
{% endfor %}
</section>
{% else %}<p>No row has refined captions.</p>{% endfor %}
"""


def _facts(report: dict[str, Any]) -> dict[str, str]:
    """The figures at the top."""
    facts = {"images": report["rows"], "captions": report["captions"], "texts": report["texts"]}
    facts |= {"merged": report["texts_merged"]}
    facts |= {f"captions by {name.replace('_', ' ')}": count for name, count in report["by_refiner"].items()}
    if report["calls"] or report["cached"]:
        facts |= {"answers received": report["calls"], "answers from the cache": report["cached"]}
        facts |= {"retries": report["retries"], "tokens": report["prompt_tokens"] + report["completion_tokens"]}
    cost = {} if report["cost_usd"] is None else {"USD": f"{report['cost_usd']:,.4f}"}
    return {name: f"{value:,}" for name, value in facts.items()} | cost


def _histograms(lengths: dict[str, Any], bin_chars: int) -> dict[str, list[int]]:
    """The bins before and after up to the last that holds a text, or the target."""
    counts = {title: lengths[title]["histogram"]["counts"] for title in ("before", "after")}
    last = max(place for one in counts.values() for place, count in enumerate([1, *one]) if count)
    shown = max(last, lengths["target"] // bin_chars + 1)
    return {title: one[:shown] for title, one in counts.items()}


def write_refine_report(report: RefineReport | dict[str, Any], path_html: str | Path) -> Path:
    """Write the page of a report or its dict, whole or not at all; see `write_page`."""
    found = report.to_dict() if isinstance(report, RefineReport) else report
    lengths = found["length_chars"]
    bin_chars = lengths["before"]["histogram"]["bin_chars"]
    histograms = _histograms(lengths, bin_chars)
    values = {"facts": _facts(found), "lengths": lengths, "bin_chars": bin_chars, "histograms": histograms}
    return write_page(path_html, render_page("Refined captions", _BODY, report=found, **values))
