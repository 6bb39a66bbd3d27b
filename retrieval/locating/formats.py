"""An answer written for people, programs and map software."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any
from xml.etree import ElementTree

from pemoe.retrieval.locating.map_page import render_map_page
from pemoe.retrieval.locating.results import LocatedPlace, LocateResult

WIDTH = 80  # characters of the table
COLUMNS = ("rank", "place_id", "name", "latitude_deg", "longitude_deg", "score", "probability", "platforms")
ANSWER_COLUMNS = ("id", "texts", "verdict", *COLUMNS)  # of a file of queries
_KML = "http://www.opengis.net/kml/2.2"
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no place for
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # of a terminal


def as_table(result: LocateResult) -> str:
    """For people: ranks, coordinates, scores, at most 80 characters wide; "–" where a value is not known."""
    head = ("", "place", "latitude", "longitude", "score", "probability", "seen by")
    rows = [head, *(_table_row(rank, place) for rank, place in enumerate(result.places, 1))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    widths[1] = min(widths[1], WIDTH - sum(widths) + widths[1] - 2 * len(widths) - 12)
    lines = [_aligned(row, widths) for row in rows] if result.places else []
    said = [_verdict(result), *(f"Note: {note}." for note in result.notes), _gate(result)]
    return "\n".join([*lines, *(line for text in said for line in textwrap.wrap(text, WIDTH))])


def as_json(result: LocateResult, thumbnails: bool = False) -> str:
    """One JSON object in one line."""
    return json.dumps(result.as_json(thumbnails), ensure_ascii=False)


def as_geojson(result: LocateResult) -> str:
    """A FeatureCollection (RFC 7946), longitude first; a place without coordinates has no geometry."""
    features = [
        {"type": "Feature", "geometry": _point(place), "properties": _facts(rank, place)}
        for rank, place in enumerate(result.places, 1)
    ]
    about = {"texts": list(result.texts), "verdict": result.verdict, "notes": list(result.notes)}
    return json.dumps({"type": "FeatureCollection", "features": features, **about}, ensure_ascii=False)


def as_kml(result: LocateResult) -> str:
    """KML 2.2; a place without coordinates is a Placemark without a Point."""
    ElementTree.register_namespace("", _KML)
    root = ElementTree.Element(f"{{{_KML}}}kml")
    document = _child(root, "Document")
    _child(document, "name", " ".join(result.texts) or "picture")
    _child(document, "description", _verdict(result))
    for rank, place in enumerate(result.places, 1):
        mark = _child(document, "Placemark")
        _child(mark, "name", f"{rank}. {place.name}")
        data = _child(mark, "ExtendedData")
        for name, value in _facts(rank, place).items():
            item = _child(data, "Data")
            item.set("name", name)
            _child(item, "value", " ".join(value) if isinstance(value, list) else "" if value is None else str(value))
        if place.latitude_deg is not None and place.longitude_deg is not None:
            _child(_child(mark, "Point"), "coordinates", f"{place.longitude_deg:.7f},{place.latitude_deg:.7f}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def as_csv(result: LocateResult) -> str:
    """One row per place under a header; text that a spreadsheet would run as a formula begins with an apostrophe."""
    return _csv([COLUMNS, *_csv_rows(result)])


def csv_header() -> str:
    """The header of answers to a file of queries."""
    return _csv([ANSWER_COLUMNS])


def csv_answer(name: str, result: LocateResult) -> str:
    """The answer to one query of a file: a row per place, one with empty cells where there is none."""
    said = [_cell(name), _cell(" ".join(result.texts)), result.verdict]
    return _csv([[*said, *row] for row in _csv_rows(result) or [[""] * len(COLUMNS)]])


def json_answer(name: str, result: LocateResult, thumbnails: bool = False) -> str:
    """The answer to one query of a file: one JSON object in one line."""
    return json.dumps({"id": name, **result.as_json(thumbnails)}, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[LocateResult], str]] = {
    "table": as_table,
    "json": as_json,
    "geojson": as_geojson,
    "kml": as_kml,
    "csv": as_csv,
    "html": render_map_page,
}


def _facts(rank: int, place: LocatedPlace) -> dict[str, Any]:
    """What is known of a place but where it is."""
    content = {name: getattr(place, name) for name in ("place_id", "name", "score", "probability")}
    return {"rank": rank, **content, "platforms": list(place.platforms)}


def _point(place: LocatedPlace) -> dict[str, Any] | None:
    if place.latitude_deg is None or place.longitude_deg is None:
        return None
    return {"type": "Point", "coordinates": [round(place.longitude_deg, 7), round(place.latitude_deg, 7)]}


def _child(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, f"{{{_KML}}}{tag}")
    element.text = None if text is None else _UNPRINTABLE.sub("�", text)
    return element


def _csv_rows(result: LocateResult) -> list[list[str]]:
    rows = []
    for rank, place in enumerate(result.places, 1):
        numbers = [f"{value:.7f}" if value is not None else "" for value in (place.latitude_deg, place.longitude_deg)]
        odds = [_number(place.score), _number(place.probability)]
        names = [_cell(place.place_id), _cell(place.name)]
        rows.append([str(rank), *names, *numbers, *odds, _cell(" ".join(place.platforms))])
    return rows


def _csv(rows: Iterable[Iterable[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) or text[:1] in ("\t", "\r") else text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _table_row(rank: int, place: LocatedPlace) -> tuple[str, ...]:
    name = place.place_id if place.name == place.place_id else f"{place.place_id} {place.name}"
    where = ("–" if one is None else f"{one:.5f}" for one in (place.latitude_deg, place.longitude_deg))
    odds = "–" if place.probability is None else f"{100 * place.probability:.1f} %"
    return str(rank), _CONTROL.sub("?", name), *where, f"{place.score:.3f}", odds, ", ".join(place.platforms)


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """The place to the left, cut where it is too long; numbers to the right; the platforms as far as there is room."""
    cells = [row[0].rjust(widths[0]), _cut(row[1], widths[1]).ljust(widths[1])]
    cells += [cell.rjust(width) for cell, width in zip(row[2:-1], widths[2:], strict=True)]
    line = "  ".join(cells)
    return f"{line}  {_cut(row[-1], WIDTH - len(line) - 2)}".rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _verdict(result: LocateResult) -> str:
    if not result.places:
        return f"Verdict: {result.verdict}."
    searched = f"{result.pictures_searched} pictures searched"
    if result.probability_elsewhere is None:
        return f"Verdict: {result.verdict}; {searched}."
    return f"Verdict: {result.verdict}; {100 * result.probability_elsewhere:.1f} % that it is elsewhere; {searched}."


def _gate(result: LocateResult) -> str:
    return "Gate: " + ", ".join(f"{name} {weight:.2f}" for name, weight in result.gate_weights.items()) + "."
