"""`pemoe index build`: parses, calls, prints; no logic."""

from __future__ import annotations

from typing import Annotated

import typer

from pemoe.console import AsJson, print_json

index_app = typer.Typer(no_args_is_help=True, help="Pictures with coordinates that can be searched by words.")

IndexUri = Annotated[str, typer.Argument(help="The index: a directory, s3://..., or http://host:19530/name (Milvus).")]


@index_app.command()
def build(
    data: Annotated[str, typer.Argument(help="Photos, tiles, a built data set, its Hub id, or: campus.")],
    model: Annotated[str, typer.Option(help="Directory or Hub id of the model that encodes.")],
    output: Annotated[str, typer.Option(help="The index: a directory, s3://..., or http://host:19530/name.")],
    split: Annotated[str, typer.Option(help="all, train or test.")] = "all",
    as_json: AsJson = False,
) -> None:
    """Encode every picture and store it with its place and coordinates.

    Example: pemoe index build photos --model runs/quickstart/model --output photos.index
    """
    from pemoe.retrieval.checkpoints import load_checkpoint
    from pemoe.retrieval.index import GalleryIndex
    from pemoe.retrieval.index.identity import ModelIdentity
    from pemoe.retrieval.index.ingest import ingest
    from pemoe.retrieval.index.pictures import read_pictures

    loaded, processor = load_checkpoint(model)
    index = GalleryIndex.create(output, ModelIdentity.of(model, loaded))
    counts = ingest(index, read_pictures(data, split, show_progress=True), loaded, processor, show_progress=True)
    if as_json:
        print_json(vars(counts))
        return
    typer.echo(f"{counts.written} pictures. {output}")
