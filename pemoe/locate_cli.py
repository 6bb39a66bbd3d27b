"""`pemoe locate`: parses, calls, prints; no logic."""

from __future__ import annotations

from typing import Annotated

import typer

from pemoe.console import print_json


def locate(
    text: Annotated[list[str], typer.Argument(help="One or several sentences.")],
    index: Annotated[str, typer.Option(help="The index to search.")],
    top: Annotated[int, typer.Option(min=1, help="Places shown.")] = 5,
    format: Annotated[str, typer.Option(help="table, json, geojson, kml, csv or html.")] = "table",
) -> None:
    """Find the place that a sentence means.

    Example: pemoe locate "round white arena beside a car park" --index photos.index
    """
    from pemoe.retrieval.locating import Locator

    print_json(Locator.open(index).locate(text, top=top).as_json())
