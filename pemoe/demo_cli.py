"""`pemoe demo`: parses, calls, serves; no logic."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Annotated

import typer

from pemoe.common.errors import InputError
from pemoe.console import note, quiet_transformers

MOST_DRAWN = 1_000_000  # pictures whose coordinates are read to centre the first map


def demo(
    index: Annotated[str, typer.Option(help="The index to search: a directory, s3://..., or http://host:19530/name.")],
    model: Annotated[str | None, typer.Option(help="Its model, where it has been moved.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    tiles: Annotated[
        str | None, typer.Option(help="Address of map tiles with {z}, {x}, {y}; none are asked for without it.")
    ] = None,
    attribution: Annotated[str, typer.Option(help="What must be said of the tiles.")] = "",
) -> None:
    """Describe a place on a page, see it on a map: on this computer, without a network.

    Example: pemoe demo --index photos.index
    """
    if find_spec("gradio") is None:
        raise InputError('demo: the page needs gradio; pip install "pemoe[demo]"')
    quiet_transformers()
    from pemoe.retrieval.index import Filter
    from pemoe.retrieval.locating import Locator

    locator = Locator.open(index, model)

    def find(texts, box, near, platforms, top, own):
        return locator.locate(texts, where=Filter(platforms, box, near), top=top).as_json(thumbnails=True)

    from pemoe.hub_cards.space.page import build_page, serve_page

    page = build_page(find, _describe(locator, index, tiles, attribution))
    _, address, _ = serve_page(page, server_port=port, prevent_thread_lock=True, quiet=True)
    note(f"{address}  (Ctrl-C ends it)")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        page.close(verbose=False)


def _describe(locator, index: str, tiles: str | None, attribution: str):
    """What the page says of an index."""
    from pemoe.common.maps import bounding_box
    from pemoe.hub_cards.space.page import PageFacts
    from pemoe.hub_cards.space_bundle import EXAMPLES, TITLE

    count, extent = locator.index.count(), None
    if count <= MOST_DRAWN:
        rows = locator.index.read(["latitude_deg", "longitude_deg"])
        known = zip(rows["latitude_deg"].to_pylist(), rows["longitude_deg"].to_pylist(), strict=True)
        extent = bounding_box([where for where in known if None not in where])
    about = f"{count:,} pictures of `{index}` are searched."
    return PageFacts(TITLE, about, tuple(locator.model.config.platforms), EXAMPLES, extent, tiles, attribution)
