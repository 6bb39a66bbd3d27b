"""A plain report: one HTML file with the table, example queries, their pictures, scores and gate weights."""

from __future__ import annotations

from pathlib import Path

from pemoe.common.pages import picture_url, render_page, write_page

_BODY = """
{% call table(rows[0]) %}
{% for row in rows[1:] %}
<tr>{% for cell in row %}<td{% if loop.index0 %} class="n"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
{% endcall %}
{% for note in notes %}<p class="muted">{{ note }}</p>{% endfor %}
<h2>Example queries</h2>
{% for example in examples %}
<section>
<blockquote>“{{ example.query }}”</blockquote>
<p class="muted">asked of a {{ example.platform }} picture of place {{ example.place_id }}; gate weights:</p>
{% call table([]) %}
{% for name, weight in example.gate_weights.items() %}
<tr><td>{{ name }}</td><td><span class="bar" style="width:{{ (120 * weight) | round | int }}px"></span>
{{ weight | number(2) }}</td></tr>
{% endfor %}
{% endcall %}
<div class="cards">
{% for hit in example.hits %}{% call card(picture_url(hit.image), "right" if hit.is_right else "wrong") %}
{{ loop.index }}. place {{ hit.place_id }}, {{ hit.platform }}<br>
score {{ hit.score | number(3) }}, {{ "right place" if hit.is_right else "other place" }}
{% if hit.latitude_deg is not none and hit.longitude_deg is not none %}
<br>{{ hit.latitude_deg | number(5) }}, {{ hit.longitude_deg | number(5) }}{% endif %}
{% endcall %}{% endfor %}
</div>
</section>
{% endfor %}
"""


def write_report(path: Path, title: str, table: list[list[str]], examples: list[dict], notes: list[str]) -> None:
    """Write the report as one self-contained HTML file.

    Args:
        path, title: the file and its heading.
        table: rows of cells, the first row being the header.
        examples: queries with their gate weights and their hits, best first, as `metrics.json` holds them; each hit
            also with its `image` and `latitude_deg`, `longitude_deg`, None when unknown.
        notes: one paragraph each, under the table.
    """
    rows = [[table[0][0], *(f":{name}" for name in table[0][1:])], *table[1:]]
    write_page(path, render_page(title, _BODY, rows=rows, examples=examples, notes=notes, picture_url=picture_url))
