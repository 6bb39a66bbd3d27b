"""HTML pages in one style: a single file each that loads nothing, escapes what data says and fits a phone."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from pemoe.common.errors import InputError
from pemoe.common.files import write_text

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_PX = 320

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; --bar: #3b74b8; --aim: #c8502d; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; overflow-wrap: anywhere; }
p { margin: .35rem 0; overflow-wrap: anywhere; }
code { font-size: .9em; overflow-wrap: anywhere; }
mark { background: #ffd9d6; color: #8c1d18; border-radius: 2px; }
blockquote { margin: 1rem 0 .4rem; font-size: 1.1rem; overflow-wrap: anywhere; }
.muted { opacity: .7; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-size: .85rem; opacity: .75; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
svg { display: block; height: auto; }
figure svg { max-width: 100%; }
svg text { font-size: 12px; fill: currentColor; }
svg .frame { fill: none; stroke: var(--line); }
svg .bars, .bar { fill: var(--bar); background: var(--bar); }
svg .aim { stroke: var(--aim); stroke-width: 2; stroke-dasharray: 5 4; }
.bar { display: inline-block; height: .7em; margin-right: .4em; }
.badge { display: inline-block; min-width: 4.2rem; text-align: center; border-radius: 3px; padding: 0 .45rem;
  font-size: .8rem; font-weight: 600; color: #fff; background: #5b6773; }
.badge.error { background: #b3261e; } .badge.warning { background: #9a6200; }
.facts, .figures { display: flex; flex-wrap: wrap; gap: .6rem 1.5rem; margin: 1rem 0; }
.facts div { background: var(--soft); border-radius: 6px; padding: .4rem .8rem; }
.facts b { display: block; font-size: 1.2rem; }
figure { margin: 0; min-width: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: .8rem; margin: .8rem 0; }
.card { border: 1px solid var(--line); border-radius: 5px; padding: .5rem; font-size: .85rem; }
.card.right { border-color: #2b8a3e; box-shadow: 0 0 0 2px #2b8a3e; }
figcaption { overflow-wrap: anywhere; }
.card img, .nopicture { width: 100%; height: 160px; object-fit: contain; background: var(--soft); }
.nopicture { display: flex; align-items: center; justify-content: center; opacity: .7; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; }
.pair + .pair { border-top: 1px solid var(--line); }
.pair h3 { grid-column: 1 / -1; }
.pair ul { margin: 0 0 .8rem; padding-left: 1.1rem; overflow-wrap: anywhere; }
@media (max-width: 700px) { .pair { display: block; } th, td { padding: .25rem .4rem; font-size: .85rem; } }
@media (max-width: 480px) { figure svg text { font-size: 16px; } }
"""

# a heading of a table that begins with a colon stands over numbers; a card whose url is "" says that its picture is
# missing, one whose url is None has none; `aim` of a histogram is drawn as a line
_PARTS = """
{%- macro table(head) -%}
<div class="wide"><table>
{% if head %}<tr>{% for name in head %}
<th{% if name[:1] == ":" %} class="n"{% endif %}>{{ name.lstrip(":") }}</th>{% endfor %}</tr>{% endif %}
{{ caller() }}</table></div>
{%- endmacro -%}
{%- macro histogram(counts, bin, width, height, ticks, aim=none) -%}
{%- set step = width / counts | length -%}
{%- set highest = [counts | max, 1] | max -%}
{%- set foot = height + (1 if aim is none else 15) -%}
<svg width="{{ width }}" height="{{ foot + 20 }}" viewBox="0 0 {{ width }} {{ foot + 20 }}" role="img">
<rect class="frame" x="0.5" y="{{ foot - height - 0.5 }}" width="{{ width - 1 }}" height="{{ height }}"/>
{% for count in counts %}
{%- set tall = height * count / highest -%}
<rect class="bars" x="{{ (loop.index0 * step + 1) | round(1) }}" y="{{ (foot - tall) | round(1) }}"
 width="{{ (step - 1.5) | round(1) }}" height="{{ tall | round(1) }}"><title>from {{ loop.index0 * bin }}: {{ count }}
{{- "" }}</title></rect>
{% endfor %}
{%- for place in range(0, counts | length + 1, (counts | length / ticks) | round(0, "ceil") | int) -%}
<text x="{{ (place * step) | round(1) }}" y="{{ foot + 16 }}" text-anchor="
{{- "start" if not place else "end" if place == counts | length else "middle" }}">{{ place * bin }}</text>
{%- endfor %}
{%- if aim is not none %}{% set x = (aim / bin * step) | round(1) %}
<line class="aim" x1="{{ x }}" x2="{{ x }}" y1="14" y2="{{ foot }}"/>
<text x="{{ x + 4 }}" y="11">query: {{ aim }}</text>{% endif %}
</svg>
{%- endmacro -%}
{%- macro card(url, kind="") -%}
<figure class="card {{ kind }}">
{%- if url %}<img alt="" src="{{ url }}">{% elif url is not none %}<div class="nopicture">no picture</div>{% endif %}
<figcaption>{{ caller() }}</figcaption></figure>
{%- endmacro -%}
"""

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<h1>{{ title }}</h1>
"""


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def render_page(title: str, body: str, **values: Any) -> str:
    """A page as one self-contained HTML text.

    Args:
        title: its heading.
        body: Jinja template of what stands below it; has `table(head)` and `card(url, kind)` to be called with rows
            and a caption, `histogram(counts, bin, width, height, ticks, aim)` and the filter `number(digits)`.
        values: what the template shows, escaped.

    Example:
        >>> "<p>a &lt; b</p>" in render_page("Notes", "<p>{{ note }}</p>", note="a < b")
        True
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    template = environment.from_string(f"{_PARTS}{_HEAD}{body}</body>\n</html>\n")
    return template.render(title=title, style=_STYLE, **values)


def write_page(path: str | Path, page: str) -> Path:
    """Write a page, whole or not at all, its folder made; an `InputError` says that the file cannot be written."""
    path = Path(path)
    try:
        write_text(path, page)
    except OSError as error:
        raise InputError(f"{path}: cannot write the page ({error}); name another file") from error
    return path


def picture_url(image: Image.Image, side_px: int = THUMBNAIL_PX) -> str:
    """A picture, scaled down to `side_px` at most, as a `data:` URL of a JPEG."""
    image = image.convert("RGB")
    image.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return jpeg_url(buffer.getvalue())


def jpeg_url(data: bytes) -> str:
    """The bytes of a JPEG as a `data:` URL."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
