"""Files of queries: text, CSV or JSON lines, checked whole before the first one is answered."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pemoe.common.errors import one_line
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.locating.encoding import Query
from pemoe.retrieval.locating.queries import read_statements

_FIELDS = ("id", "text", "texts", "image")


@dataclass(frozen=True)
class NamedQuery:
    """A query of a file, under its `id` there or the number of its line."""

    name: str
    query: Query


def read_queries(path: str | Path) -> list[NamedQuery]:
    """The queries of a file, in its order.

    Args:
        path: `.txt` with a query per line (blank lines are passed over), `.csv` with a header of `text` and, if
            wanted, `id` and `image`, or `.jsonl` of objects with `text` or `texts`, `id`, `image`. A picture is named
            by its path, relative to the file's folder.

    Raises:
        GalleryError: another ending, a file that cannot be read, or a line, by its number, that is no query.

    Example:
        >>> read_queries("queries.txt")[0].query.texts  # doctest: +SKIP
        ('round arena beside a car park',)
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise GalleryError(f"{path}: queries are read from {', '.join(_READERS)}; rename or convert it")
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            queries = [_query(path, *one) for one in _READERS[path.suffix.lower()](path, lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GalleryError(f"{path}: cannot be read as UTF-8 text ({one_line(error)})") from error
    if not queries:
        raise GalleryError(f"{path}: holds no query; write one per line")
    return queries


def _read_text(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from ((number, {"text": line.strip()}) for number, line in enumerate(lines, 1) if line.strip())


def _read_csv(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines, strict=True)
    if reader.fieldnames is not None:
        _check_fields(path, 1, [name for name in reader.fieldnames if name not in ("id", "text", "image")])
    for row in reader:
        if None in row or None in row.values():
            raise GalleryError(f"{path} line {reader.line_num}: more or fewer cells than the header; quote commas")
        yield reader.line_num, {name: value for name, value in row.items() if value.strip()}


def _read_json(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise GalleryError(f"{path} line {number}: is no JSON ({one_line(error)})") from error
        if not isinstance(row, dict):
            raise GalleryError(f'{path} line {number}: is no JSON object; write {{"text": "..."}}')
        yield number, row


_READERS = {".txt": _read_text, ".csv": _read_csv, ".jsonl": _read_json}


def _check_fields(path: Path, number: int, unknown: list[str]) -> None:
    if unknown:
        what = f"{path} line {number}: {unknown[0]!r} is not known"
        raise GalleryError(f"{what}; a query has {', '.join(_FIELDS)}, filters are options of the command")


def _query(path: Path, number: int, row: dict[str, Any]) -> NamedQuery:
    _check_fields(path, number, [name for name in row if name not in _FIELDS])
    given = row.get("texts", row.get("text", []))
    texts = [given] if isinstance(given, str) else given
    is_text = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    image, name = row.get("image"), row.get("id", number)
    if ("text" in row and "texts" in row) or not is_text or not isinstance(image, str | None):
        raise GalleryError(f"{path} line {number}: give text, or a list texts, and image as a path")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise GalleryError(f"{path} line {number}: id is neither text nor a whole number")
    if not read_statements(texts) and (image is None or any(text.strip() for text in texts)):
        raise GalleryError(f"{path} line {number}: says nothing of a place; write a sentence or name a picture")
    picture = None if image is None else path.parent / image
    if picture is not None and not picture.is_file():
        raise GalleryError(f"{path} line {number}: no picture {picture}; its path is taken from the file's folder")
    return NamedQuery(str(name), Query(tuple(texts), None if picture is None else str(picture)))
