"""The commands `pemoe index build | add | remove | info | export`: parse, call, print; no logic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pemoe.console import AsJson, Overwrite, Resume, check_root, note, print_json, quiet_transformers

if TYPE_CHECKING:
    from pemoe.retrieval.index.ingest import IngestCounts
    from pemoe.retrieval.index.pictures import Pictures

index_app = typer.Typer(no_args_is_help=True, help="Pictures with coordinates that can be searched by words.")

IndexUri = Annotated[str, typer.Argument(help="The index: a directory, s3://..., or http://host:19530/name (Milvus).")]
Pictured = Annotated[
    str,
    typer.Argument(help="Photos, tiles, GeoText-1652, a built data set, its Hub id, or: campus.", callback=check_root),
]
Split = Annotated[str, typer.Option(help="all, train or test.")]
Coords = Annotated[
    str | None, typer.Option("--coords", help="Position of each place: CSV, TSV, JSON, GeoJSON, KML, KMZ.")
]
Names = Annotated[str | None, typer.Option(help="Lines '<id> <name>': names of the places, ids of a KML's names.")]
Platform = Annotated[str | None, typer.Option(help="Of a folder's images, where nothing else names it.")]
Table = Annotated[str | None, typer.Option(help="Table of a folder's images, where there are several.")]
PlaceBy = Annotated[str | None, typer.Option(help="What a place of a folder is: folder or file.")]
Prefix = Annotated[str, typer.Option(help="Put before ids of pictures and places, to keep folders apart.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that encode, each with the model.")]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave out pictures that cannot be decoded.")]


@index_app.command()
def build(  # noqa: PLR0913 - options of a command
    data: Pictured,
    model: Annotated[str, typer.Option(help="Directory or Hub id of the model that encodes.")],
    output: Annotated[str, typer.Option(help="The index: a directory, s3://..., or http://host:19530/name.")],
    split: Split = "all",
    coords: Coords = None,
    names: Names = None,
    platform: Platform = None,
    table: Table = None,
    place_by: PlaceBy = None,
    prefix: Prefix = "",
    workers: Workers = 1,
    skip_broken: SkipBroken = False,
    calibration: Annotated[
        str | None,
        typer.Option(help="A calibration.json, data with training captions, or none. Default: the model's."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    ray: Annotated[str | None, typer.Option(help="Build on a cluster: auto, HOST:PORT, ray://HOST:10001, local.")] = (
        None
    ),
    as_json: AsJson = False,
) -> None:
    """Encode every picture and store it with its place and coordinates.

    Example: pemoe index build photos --model runs/quickstart/model --output photos.index

    Example: pemoe index build /shared/photos --model /shared/model --output /shared/photos.index --ray auto
    """
    from pemoe.retrieval.checkpoints import load_checkpoint
    from pemoe.retrieval.index import GalleryIndex
    from pemoe.retrieval.index.identity import ModelIdentity
    from pemoe.retrieval.index.ingest import check_target, ingest, open_target
    from pemoe.retrieval.index.pictures import read_pictures
    from pemoe.retrieval.locating.calibrated_index import choose_calibration, set_calibration

    started_s = time.monotonic()
    quiet_transformers()
    check_target(output, resume, overwrite)
    source: dict[str, Any] = {
        "split": split, "coordinates": coords, "names": names, "platform": platform, "table": table,
        "place_id": place_by, "prefix": prefix,
    }  # fmt: skip
    pictures = read_pictures(data, show_progress=True, **source)
    loaded, processor = load_checkpoint(model)
    identity = ModelIdentity.of(model, loaded)
    chosen, line = choose_calibration(calibration, model, loaded, processor, identity.weights_sha256)
    note(line)
    if ray is not None:
        from pemoe.retrieval.index.ray_build import build_on_ray, refuse_with_ray

        refuse_with_ray(workers=workers > 1, skip_broken=skip_broken, resume=resume, overwrite=overwrite)
        counts = build_on_ray(output, data, model, ray, show_progress=True, **source)
        index = GalleryIndex.open(output)
        set_calibration(index, chosen)
        index.optimize()
    else:
        with open_target(output, identity, resume, overwrite) as index:
            set_calibration(index, chosen)
            counts = ingest(
                index, pictures, loaded, processor, show_progress=True,
                skip_broken=skip_broken, workers=workers, checkpoint=model,
            )  # fmt: skip
            index.optimize()
    _report(output, pictures, counts, started_s, as_json)


@index_app.command()
def add(  # noqa: PLR0913 - options of a command
    index: IndexUri,
    data: Pictured,
    model: Annotated[str | None, typer.Option(help="The index's model, where it lies elsewhere now.")] = None,
    split: Split = "all",
    coords: Coords = None,
    names: Names = None,
    platform: Platform = None,
    table: Table = None,
    place_by: PlaceBy = None,
    prefix: Prefix = "",
    workers: Workers = 1,
    skip_broken: SkipBroken = False,
    as_json: AsJson = False,
) -> None:
    """Add pictures; changed ones are replaced, unchanged ones not encoded again. Run again to go on after a stop.

    Example: pemoe index add photos.index more_photos --coords places.csv
    """
    from pemoe.retrieval.index import GalleryIndex
    from pemoe.retrieval.index.ingest import ingest
    from pemoe.retrieval.index.pictures import read_pictures

    started_s = time.monotonic()
    quiet_transformers()
    opened = GalleryIndex.open(index)
    source: dict[str, Any] = {
        "split": split, "coordinates": coords, "names": names, "platform": platform, "table": table,
        "place_id": place_by, "prefix": prefix,
    }  # fmt: skip
    pictures = read_pictures(data, show_progress=True, **source)
    loaded, processor = opened.model.load(index, model)
    counts = ingest(
        opened, pictures, loaded, processor, show_progress=True,
        skip_broken=skip_broken, workers=workers, checkpoint=model or opened.model.repo,
    )  # fmt: skip
    opened.optimize()
    _report(index, pictures, counts, started_s, as_json)


@index_app.command()
def remove(
    index: IndexUri,
    image_id: Annotated[list[str] | None, typer.Option(help="A picture; may be repeated.")] = None,
    place: Annotated[list[str] | None, typer.Option(help="Pictures of a place, by its id; may be repeated.")] = None,
    platform: Annotated[list[str] | None, typer.Option(help="Pictures of a platform; may be repeated.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Pictures taken before this, as 2024-06-01.")] = None,
    as_json: AsJson = False,
) -> None:
    """Remove the pictures for which everything holds that is given.

    Example: pemoe index remove photos.index --platform drone --older-than 2020-01-01
    """
    from pemoe.retrieval.index import GalleryIndex
    from pemoe.retrieval.index.export import remove_pictures

    opened = GalleryIndex.open(index)
    removed = remove_pictures(opened, image_id or (), place or (), platform or (), older_than)
    left = opened.count()
    if as_json:
        print_json({"index": index, "removed": removed, "pictures": left})
        return
    typer.echo(f"{removed} pictures are removed, {left} are left. {index}")


@index_app.command()
def info(index: IndexUri, as_json: AsJson = False) -> None:
    """Say what an index holds, and whose vectors.

    Example: pemoe index info photos.index
    """
    from pemoe.retrieval.index import GalleryIndex
    from pemoe.retrieval.index.export import describe_index

    facts = describe_index(GalleryIndex.open(index), index)
    if as_json:
        print_json(facts)
        return
    platforms = ", ".join(f"{name} {count}" for name, count in facts["platforms"].items())
    typer.echo(f"{facts['pictures']:,} pictures of {facts['places']:,} places ({platforms})")
    typer.echo(f"{facts['with_coordinates']:,} with coordinates, {facts['without_coordinates']:,} without")
    if facts["box"]:
        south, west, north, east = facts["box"]
        typer.echo(f"latitude {south:.5f} to {north:.5f}, longitude {west:.5f} to {east:.5f}")
    if facts["wide_places"]:
        typer.echo(f"{facts['wide_places']:,} places have pictures over 1 km apart")
    if facts["captured"]:
        typer.echo("taken {} to {}".format(*facts["captured"]))
    model = facts["model"]
    typer.echo(f"model {model['repo']} ({', '.join(model['platforms'])}; weights {model['weights_sha256']})")
    typer.echo(_describe_calibration(facts["calibration"]))
    if facts["is_exact"] is not None:
        typer.echo("searched exactly" if facts["is_exact"] else "searched by its nearest-neighbour index")
    if facts["size_mb"] is not None:
        typer.echo(f"{facts['size_mb']:,.1f} MB")


@index_app.command()
def export(
    index: IndexUri,
    output: Annotated[Path, typer.Option(help="A file: .parquet (pictures) or .geojson (places).")],
    vectors: Annotated[bool, typer.Option("--vectors", help="With the vectors (.parquet only).")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an index as a table of pictures, or as a map layer of places.

    Example: pemoe index export photos.index --output places.geojson
    """
    from pemoe.retrieval.index import GalleryIndex
    from pemoe.retrieval.index.export import export_index

    rows = export_index(GalleryIndex.open(index), output, vectors, overwrite)
    if as_json:
        print_json({"output": str(output), "rows": rows})
        return
    typer.echo(f"{rows} {'pictures' if output.suffix.lower() == '.parquet' else 'places'}. {output}")


def _report(uri: str, pictures: Pictures, counts: IngestCounts, started_s: float, as_json: bool) -> None:
    from pemoe.retrieval.index import GalleryIndex
    from pemoe.retrieval.index.export import describe_index, notes_of

    facts = describe_index(GalleryIndex.open(uri), uri)
    lines = notes_of(facts, pictures.notes(), counts)
    if as_json:
        wall_s = round(time.monotonic() - started_s, 2)
        print_json({**facts, "ingest": vars(counts), "notes": lines, "wall_s": wall_s})
        return
    for line in lines:
        note(line)
    done = f"{counts.written} encoded, {counts.unchanged} unchanged, {counts.updated} of these with other facts"
    typer.echo(f"{facts['pictures']:,} pictures of {facts['places']:,} places ({done}). {uri}")


def _describe_calibration(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return "not calibrated: places come without probabilities"
    figures = calibration["figures"]
    errors = ", ".join(f"{line['ece']:.3f} among {line['places']} places" for line in figures.get("left_out", ()))
    queries, places = (figures.get(name, "?") for name in ("queries", "places"))
    fitted = f"calibrated on {queries} queries of {places} training places"
    return f"{fitted}; expected calibration error on places left out: {errors or 'not measured'}"
