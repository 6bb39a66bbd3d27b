"""The refinement report as one HTML page: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from pemoe.common.files import write_text
from pemoe.datasets_scripts.refine.report import RefineReport
from pemoe.datasets_scripts.schema import DataError

WIDTH_PX, HEIGHT_PX, FOOT_PX = 520, 150, 34

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bar: #3b74b8; --mark: #c8502d; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; vertical-align: top; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.facts div { background: var(--soft); border-radius: 6px; padding: .4rem .8rem; }
.facts b { display: block; font-size: 1.2rem; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { margin: 0; flex: 1 1 min(440px, 100%); }
svg { width: 100%; height: auto; }
svg text { font-size: 12px; fill: currentColor; }
.bar { fill: var(--bar); }
.target { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 5 4; }
svg text.aim { fill: var(--mark); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.5rem; border-top: 1px solid var(--line); }
.pair { padding: .8rem 0; }
.pair h3 { grid-column: 1 / -1; font-size: .95rem; margin: 0 0 .3rem; }
.pair ul { margin: 0; padding-left: 1.1rem; }
.pair li { margin-bottom: .35rem; overflow-wrap: anywhere; }
.chars { opacity: .65; font-size: .85em; }
code { overflow-wrap: anywhere; }
@media (max-width: 700px) { .pair { grid-template-columns: 1fr; } }
@media (max-width: 480px) { th, td { padding: .25rem .3rem; font-size: .85rem; } svg text { font-size: 16px; } }
"""


def _number(value: float | None, digits: int = 0) -> str:
    """A figure for people; "–" for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _bins(lengths: dict[str, Any]) -> int:
    """How many bins the charts show: all that hold a text, before or after, and the target's."""
    histograms = [lengths[title]["histogram"] for title in ("before", "after")]
    last = max(bin for one in histograms for bin, count in enumerate([1, *one["counts"]]) if count)
    return max(last, lengths["target"] // histograms[0]["bin_chars"] + 1)


def _histogram(title: str, lengths: dict[str, Any], target: int, bins: int) -> str:
    """Text lengths as an inline SVG of the first `bins` bins, with the target marked."""
    last, bin_chars = len(lengths["histogram"]["counts"]) - 1, lengths["histogram"]["bin_chars"]
    counts = lengths["histogram"]["counts"][:bins]
    step, highest = WIDTH_PX / bins, max(*counts, 1)
    bars = []
    for position, count in enumerate(counts):
        height = HEIGHT_PX * count / highest
        first = position * bin_chars
        told = f"{first}+" if position == last else f"{first}–{first + bin_chars - 1}"
        bars.append(
            f'<rect class="bar" x="{position * step + 1:.1f}" y="{HEIGHT_PX + 16 - height:.1f}" '
            f'width="{step - 2:.1f}" height="{height:.1f}"><title>{told} characters: {count:,}</title></rect>'
        )
    ticks = "".join(
        f'<text x="{position * step:.1f}" y="{HEIGHT_PX + FOOT_PX}" text-anchor="{"middle" if position else "start"}">'
        f"{position * bin_chars}</text>"
        for position in range(0, bins + 1, -(-bins // 6))
    )
    x = target / bin_chars * step
    aim = (
        f'<line class="target" x1="{x:.1f}" x2="{x:.1f}" y1="14" y2="{HEIGHT_PX + 16}"/>'
        f'<text class="aim" x="{x + 4:.1f}" y="12">query: {target}</text>'
    )
    axis = f'<line x1="0" x2="{WIDTH_PX}" y1="{HEIGHT_PX + 16}" y2="{HEIGHT_PX + 16}" stroke="currentColor"/>'
    view = f"0 0 {WIDTH_PX + 30} {HEIGHT_PX + FOOT_PX + 6}"
    caption = f"<figcaption><b>{escape(title)}</b>, characters per text</figcaption>"
    drawing = f'<svg viewBox="{view}" role="img" aria-label="{escape(title)}">{"".join(bars)}{axis}{ticks}{aim}</svg>'
    return f"<figure>{caption}{drawing}</figure>"


def _facts(report: dict[str, Any]) -> str:
    """The figures at the top."""
    tokens = report["prompt_tokens"] + report["completion_tokens"]
    facts = {
        "images": _number(report["rows"]),
        "captions": _number(report["captions"]),
        "texts": _number(report["texts"]),
        "merged": _number(report["texts_merged"]),
        **{f"captions by {name.replace('_', ' ')}": _number(count) for name, count in report["by_refiner"].items()},
    }
    if report["calls"] or report["cached"]:
        facts |= {"answers received": _number(report["calls"]), "answers from the cache": _number(report["cached"])}
        facts |= {"retries": _number(report["retries"]), "tokens": _number(tokens)}
    if report["cost_usd"] is not None:
        facts["USD"] = _number(report["cost_usd"], 4)
    return "".join(f"<div><b>{value}</b>{escape(name)}</div>" for name, value in facts.items())


def _lengths(report: dict[str, Any]) -> str:
    """The table of lengths."""
    names = ("count", "mean", "median", "p10", "p90")
    head = "".join(f'<th class="number">{name}</th>' for name in names)
    rows = ""
    for title in ("before", "after"):
        lengths = report["length_chars"][title]
        rows += (
            f"<tr><td>{title}</td>"
            + "".join(f'<td class="number">{_number(lengths[n])}</td>' for n in names)
            + "</tr>"
        )
    return f'<div class="wide"><table><tr><th>characters</th>{head}</tr>{rows}</table></div>'


def _rejections(report: dict[str, Any]) -> str:
    """The table of what was not used; a sentence when there was nothing."""
    if not report["rejections"]:
        return "<p>Nothing was rejected.</p>"
    rows = ""
    for reason, entry in report["rejections"].items():
        examples = "".join(
            f"<div>{escape(example['detail'])}: <code>{escape(example['text'][:200]) or '–'}</code></div>"
            for example in entry["examples"][:2]
        )
        rows += (
            f'<tr><td><b>{escape(reason)}</b><br><span class="chars">{escape(entry["meaning"])}</span></td>'
            f'<td class="number">{entry["count"]:,}</td><td>{examples}</td></tr>'
        )
    head = '<tr><th>reason</th><th class="number">times</th><th>such as</th></tr>'
    return f'<div class="wide"><table>{head}{rows}</table></div>'


def _texts(title: str, texts: list[str]) -> str:
    """One side of a pair."""
    items = "".join(f'<li>{escape(text)} <span class="chars">{len(text)}</span></li>' for text in texts)
    return f"<div><b>{title}</b><ul>{items}</ul></div>"


def _pair(example: dict[str, Any]) -> str:
    """One image, before and after."""
    by = ", ".join(name.replace("_", " ") for name in example["refiners"])
    title = f"{escape(str(example['image_id']))} · {escape(str(example['platform']))} · {escape(by)}"
    return (
        f'<section class="pair"><h3>{title}</h3>{_texts("before", example["captions"])}'
        f"{_texts('after', example['texts'])}</section>"
    )


def render_refine_report(report: dict[str, Any]) -> str:
    """The page of a report of `RefineReport.to_dict`."""
    lengths = report["length_chars"]
    charts = "".join(
        _histogram(title, lengths[title], lengths["target"], _bins(lengths)) for title in ("before", "after")
    )
    pairs = "".join(map(_pair, report["examples"])) or "<p>No row has refined captions.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Refined captions</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Refined captions</h1><div class='facts'>{_facts(report)}</div>"
        f"<h2>Lengths</h2><div class='charts'>{charts}</div>{_lengths(report)}"
        f"<h2>Rejected</h2>{_rejections(report)}<h2>Before and after</h2>{pairs}</body></html>\n"
    )


def write_refine_report(report: RefineReport | dict[str, Any], path_html: str | Path) -> Path:
    """Write the page, whole or not at all.

    Args:
        report: a `RefineReport` or its dict.
        path_html: the file; its directory is made when absent.

    Returns:
        The path.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path_html)
    page = render_refine_report(report.to_dict() if isinstance(report, RefineReport) else report)
    try:
        write_text(path, page)
    except OSError as error:
        raise DataError(f"{path}: cannot write the report ({error}); name another file") from error
    return path
