"""A plain report: one HTML file with the table, example queries, their pictures, scores and gate weights."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pemoe.common.files import write_text

THUMBNAIL_PX = 160

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1080px;padding:0 1rem;color:#1c2530}
h1{font-size:1.5rem} h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #d8dee6}
td:first-child,th:first-child{text-align:left}
.query{border-top:2px solid #d8dee6;margin-top:1.4rem;padding-top:.8rem}
blockquote{margin:.2rem 0 .6rem;font-size:1.1rem}
.hits{display:flex;flex-wrap:wrap;gap:.8rem}
figure{margin:0;width:170px} figcaption{font-size:.85rem}
img{width:160px;height:160px;object-fit:cover;border:4px solid #d8dee6;border-radius:4px}
.right img{border-color:#2b8a3e}
.bar{display:inline-block;height:.7em;background:#2f6fab;margin-right:.4em} .note{color:#5a6573}
"""


@dataclass(frozen=True)
class Hit:
    """One answer: its picture, place and platform, score of Eq. (1), coordinates (degrees, None when unknown)."""

    image: Image.Image
    place_id: str
    platform: str
    score: float
    is_right: bool
    latitude_deg: float | None = None
    longitude_deg: float | None = None


@dataclass(frozen=True)
class Example:
    """One query with its gate weights by platform and its answers, best first."""

    text: str
    platform: str
    place_id: str
    gate_weights: dict[str, float]
    hits: list[Hit]


def write_report(path: Path, title: str, table: list[list[str]], examples: list[Example], notes: list[str]) -> None:
    """Write the report as one self-contained HTML file.

    Args:
        path: the file.
        title: its heading.
        table: rows of cells, the first row being the header; may be empty.
        examples: queries with their answers.
        notes: one paragraph each, under the table.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _table(table)]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    parts.append("<h2>Example queries</h2>")
    parts += [_example(example) for example in examples]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    write_text(path, page)


def _table(rows: list[list[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><tr>{head}</tr>{body}</table>"


def _example(example: Example) -> str:
    weights = "".join(
        f"<tr><td>{html.escape(name)}</td><td style='text-align:left'>"
        f"<span class='bar' style='width:{120 * weight:.0f}px'></span>{weight:.2f}</td></tr>"
        for name, weight in example.gate_weights.items()
    )
    asked = f"asked of a {example.platform} picture of place {example.place_id}"
    return (
        f'<section class="query"><blockquote>“{html.escape(example.text)}”</blockquote>'
        f'<p class="note">{html.escape(asked)}; gate weights:</p><table>{weights}</table>'
        f'<div class="hits">{"".join(_hit(rank, hit) for rank, hit in enumerate(example.hits, 1))}</div></section>'
    )


def _hit(rank: int, hit: Hit) -> str:
    where = ""
    if hit.latitude_deg is not None and hit.longitude_deg is not None:
        where = f"<br>{hit.latitude_deg:.5f}, {hit.longitude_deg:.5f}"
    verdict = "right place" if hit.is_right else "other place"
    return (
        f'<figure class="{"right" if hit.is_right else "wrong"}"><img alt="{html.escape(hit.platform)} picture" '
        f'src="{_data_url(hit.image)}"><figcaption>{rank}. place {html.escape(hit.place_id)}, '
        f"{html.escape(hit.platform)}<br>score {hit.score:.3f}, {verdict}{where}</figcaption></figure>"
    )


def _data_url(image: Image.Image) -> str:
    thumbnail = image.convert("RGB")
    thumbnail.thumbnail((2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
