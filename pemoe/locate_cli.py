"""`pemoe locate`: parses, calls, prints; no logic."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pemoe.common.errors import InputError
from pemoe.common.files import write_atomically
from pemoe.console import quiet_transformers

if TYPE_CHECKING:
    from pemoe.retrieval.index import Filter
    from pemoe.retrieval.locating import LocateResult, Locator
    from pemoe.retrieval.locating.query_files import NamedQuery

FORMATS = ("table", "json", "geojson", "kml", "csv", "html")
FORMATS_OF_FILES = ("jsonl", "csv")
AT_ONCE = 32  # queries of a file that are answered together


def check_index(uri: str) -> str:
    """Refuse a directory that is not there while the options are read, before PyTorch is imported."""
    if "://" not in uri and not Path(uri).is_dir():
        raise InputError(f"{uri}: no such index; make it with pemoe index build DATA --model M --output {uri}")
    return uri


def locate(  # noqa: PLR0913 - one parameter per option
    text: Annotated[list[str] | None, typer.Argument(help="One or several sentences.")] = None,
    index: Annotated[str, typer.Option(help="The index to search.", callback=check_index)] = ...,
    refine: Annotated[list[str] | None, typer.Option(help="A further sentence; may be repeated.")] = None,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A picture of the place, beside or for the text.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A file of queries: .txt, .csv or .jsonl.")
    ] = None,
    near: Annotated[str | None, typer.Option(help="Search around LAT,LON.")] = None,
    radius_km: Annotated[float | None, typer.Option(help="How far around --near.")] = None,
    area: Annotated[str | None, typer.Option(help="GeoJSON or KML file, or SOUTH,WEST,NORTH,EAST.")] = None,
    platform: Annotated[list[str] | None, typer.Option(help="Search its pictures alone; may be repeated.")] = None,
    since: Annotated[str | None, typer.Option(help="Pictures taken from this date or time on (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option(help="Pictures taken up to this date or time.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Places shown.")] = 5,
    format: Annotated[
        str | None, typer.Option(help="table, json, geojson, kml, csv or html; of --queries: jsonl or csv.")
    ] = None,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Put small pictures into json and jsonl.")] = False,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="File to write to (default: stdout).")] = None,
    model: Annotated[str | None, typer.Option(help="The index's model, where it has been moved.")] = None,
) -> None:
    """Find the place that a sentence, a picture or both mean.

    Example: pemoe locate "round white arena beside a car park" --index photos.index
    """
    _check_choices(text, refine, image, queries, format, thumbnails)
    from pemoe.retrieval.locating import Locator
    from pemoe.retrieval.locating.query_files import read_queries
    from pemoe.retrieval.locating.where import filter_of

    quiet_transformers()
    where = filter_of(near, radius_km, area, platform, since, until)
    named = read_queries(queries) if queries else []
    locator = Locator.open(index, model)
    if queries:
        _write(_answers(locator, named, where, top, format or "jsonl", thumbnails), output)
    else:
        result = locator.locate([*(text or []), *(refine or [])], image and str(image), where, top)
        _write([_written(result, format or "table", thumbnails)], output)


def _check_choices(
    text: list[str] | None,
    refine: list[str] | None,
    image: Path | None,
    queries: Path | None,
    format: str | None,
    thumbnails: bool,
) -> None:
    """Refuse what does not go together, before PyTorch is imported."""
    choices = FORMATS_OF_FILES if queries else FORMATS
    if queries and (text or refine or image):
        raise InputError("--queries: its file has the queries; leave out the text, --refine and --image")
    if refine and any(not one.strip() for one in refine):
        raise InputError("--refine: is empty; write a sentence or leave it out")
    if not queries and not text and image is None:
        raise InputError("nothing to look for: give a sentence, --image or --queries")
    if format is not None and format not in choices:
        raise InputError(f"--format {format}: use {', '.join(choices)}{' with --queries' if queries else ''}")
    if thumbnails and format not in ("json", "jsonl") and not (queries and format is None):
        raise InputError("--thumbnails: only json and jsonl hold pictures; add --format json")


def _written(result: LocateResult, format: str, thumbnails: bool) -> str:
    from pemoe.retrieval.locating.formats import FORMATS as WRITERS
    from pemoe.retrieval.locating.formats import as_json

    return (as_json(result, thumbnails) if format == "json" else WRITERS[format](result)).rstrip("\n") + "\n"


def _answers(
    locator: Locator, named: list[NamedQuery], where: Filter, top: int, format: str, thumbnails: bool
) -> Iterable[str]:
    """The answers to a file of queries, each as soon as it is there."""
    from pemoe.retrieval.locating.formats import csv_answer, csv_header, json_answer

    if format == "csv":
        yield csv_header()
    for start in range(0, len(named), AT_ONCE):
        batch = named[start : start + AT_ONCE]
        results = locator.locate_many([one.query for one in batch], where, top)
        for one, result in zip(batch, results, strict=True):
            yield csv_answer(one.name, result) if format == "csv" else json_answer(one.name, result, thumbnails)


def _write(parts: Iterable[str], output: Path | None) -> None:
    """To stdout as they come, or to a file that is there whole or not at all."""
    if output is None:
        for part in parts:
            typer.echo(part, nl=False)
        return

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.writelines(parts)

    write_atomically(output, write)
    typer.echo(str(output), err=True)
