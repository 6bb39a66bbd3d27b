"""The commands `pemoe data fetch | build | audit | refine | sanitize | publish`: parse, call, print; no logic."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pemoe.common.errors import InputError
from pemoe.console import (
    AsJson,
    Output,
    Overwrite,
    Resume,
    Seed,
    check_root,
    format_columns,
    print_json,
    typed_command,
)
from pemoe.publish_cli import DryRun, Public, Repo, Revision, Tag, carry_out

if TYPE_CHECKING:
    from pemoe.datasets_scripts.builds.plan import BuildPlan
    from pemoe.datasets_scripts.sources.download import FetchPlan

data_app = typer.Typer(no_args_is_help=True, help="Fetch, build, audit, refine, sanitize and publish data sets.")


def _words(name: str, *words: str) -> type[Enum]:
    """The words that an option takes, so that `--help` lists them and another one is refused at once."""
    return Enum(name, {word: word for word in words}, type=str)


Refine = _words("Refine", "rules", "none")
Sanitize = _words("Sanitize", "remove", "mask", "keep")
Caption = _words("Caption", "remove", "mask", "transform")
Response = _words("Response", "json_schema", "json_object", "none")

Root = Annotated[str, typer.Argument(help="Directory of any source, or: campus.", callback=check_root)]
Source = Annotated[
    str | None,
    typer.Option(help="Its kind, where its files do not show it: geotext1652, folder, parquet, robosense."),
]
Coordinates = Annotated[str | None, typer.Option(help="KML or CSV of coordinates per building (GeoText-1652).")]
Names = Annotated[str | None, typer.Option(help="new_name_list.txt, where the KML holds names.")]
Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", help="Defect to drop or repair, as the audit names it; may be repeated."),
]
Table = Annotated[str | None, typer.Option(help="Table of a folder's images, where there are several.")]
Platform = Annotated[str | None, typer.Option(help="Of a folder's images, where nothing else names it.")]
TestShare = Annotated[
    float | None,
    typer.Option(help="Share of a folder's places for the test split, where no split is named, e.g. 0.2."),
]
PlaceBy = Annotated[str | None, typer.Option(help="What a place of a folder is: folder or file.")]
Phase = Annotated[int | None, typer.Option(help="Of the RoboSense challenge: 1 or 2.")]
Places = Annotated[int | None, typer.Option(min=4, help="Places of the campus.")]
SanitizeMode = Annotated[
    Sanitize | None,
    typer.Option(help="Directions in satellite texts; by default remove where texts are refined, keep where not."),
]
Audited = Annotated[bool, typer.Option("--audit/--no-audit", help="Look for defects first; errors stop the build.")]


@data_app.command()
def fetch(
    source: Annotated[str, typer.Argument(help="Published source: geotext1652.")],
    output: Output = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, tag or branch (default: the one begun with, else main as it is now).")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Only paths that match, e.g. '*.json', 'images/train/*'; may be repeated."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show licence, files and sizes; fetch nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Download a public data set at one commit, every file checked; run again to go on where it stopped.

    Example: pemoe data fetch geotext1652 --output runs/geotext
    """
    from pemoe.datasets_scripts.sources.download import fetch_files, plan_fetch
    from pemoe.datasets_scripts.sources.registry import public_source

    entry, repo = public_source(source)
    output = output or Path("runs/data_fetch")
    plan = plan_fetch(repo, output, revision=revision, include=include or ())
    _print_fetch(plan, entry.license, entry.title)
    if dry_run:
        if as_json:
            print_json({"license": dict(entry.license), **plan.record(complete=False)})
        return
    if not yes:
        if not sys.stdin.isatty():
            raise InputError("nothing was fetched: there is no terminal to ask at, so give --yes")
        if not typer.confirm("Fetch them?", err=True):
            typer.echo("Nothing was fetched.", err=True)
            return
    record = fetch_files(plan, entry.license, show_progress=True)
    if as_json:
        print_json({"directory": str(output), **record})
        return
    typer.echo(f"{len(record['files']):,} files are in {output}, every one checked. Next: pemoe data audit {output}")


@data_app.command()
def build(  # noqa: PLR0913 - options of a command
    root: Root,
    output: Output = None,
    source: Source = None,
    coordinates: Coordinates = None,
    names: Names = None,
    filters: Filters = None,
    table: Table = None,
    platform: Platform = None,
    place_by: PlaceBy = None,
    test_share: TestShare = None,
    phase: Phase = None,
    places: Places = None,
    refine: Annotated[Refine, typer.Option(help="What fills refined_captions.")] = Refine.rules,
    sanitize: SanitizeMode = None,
    audit: Audited = True,
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Read a source, check it, refine and sanitize its captions, write Parquet that load_dataset reads.

    Example: pemoe data build GEOTEXT --coordinates places.csv --output runs/data_build
    """
    from pemoe.datasets_scripts.builds.plan import make_plan
    from pemoe.datasets_scripts.builds.rows import choose_source

    chosen = choose_source(
        root, source, coordinates=coordinates, names=names, filters=filters, table=table, platform=platform,
        place_id=place_by, test_share=test_share, phase=phase, places=places, seed=seed,
    )  # fmt: skip
    name, _, options = chosen
    plan = make_plan(refine.value, sanitize and sanitize.value, **options, kind=name)
    output = output or Path("runs/data_build")
    _build(chosen, output, plan, seed, as_json, audit=audit, resume=resume, overwrite=overwrite)


@data_app.command()
def refine(  # noqa: PLR0913 - options of a command
    root: Root,
    model: Annotated[str, typer.Option(help="The model, as its server calls it; a directory or Hub id with --local.")],
    output: Output = None,
    source: Source = None,
    filters: Filters = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint (default: Hugging Face Inference Providers).")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Variable of the environment that holds the key.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Run the model here, with transformers.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Show the model the picture beside its caption.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Every answer is kept here (default: beside the output).")] = None,
    prompt_version: Annotated[str, typer.Option(help="Of the packaged prompts.")] = "v1",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests on their way at a time.")] = 8,
    requests_per_minute: Annotated[float | None, typer.Option(help="Limit of the endpoint.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="After 429, 5xx, a timeout.")] = 5,
    timeout_s: Annotated[float, typer.Option(min=1, help="For one answer.")] = 120.0,
    budget_tokens: Annotated[int | None, typer.Option(help="Cap on tokens of this run.")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Cap on dollars; needs both prices.")] = None,
    usd_per_million_in: Annotated[float | None, typer.Option(help="Price of prompt tokens.")] = None,
    usd_per_million_out: Annotated[float | None, typer.Option(help="Price of completion tokens.")] = None,
    response_format: Annotated[Response, typer.Option(help="Form of the answers.")] = Response.json_schema,
    sanitize: SanitizeMode = None,
    audit: Annotated[bool, typer.Option("--audit/--no-audit", help="Look for defects first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count calls, tokens and cost; ask nothing.")] = False,
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite the training captions with a language model, every answer checked and kept; rules where it fails.

    Example: pemoe data refine runs/data_build --model Qwen/Qwen2.5-7B-Instruct --base-url http://127.0.0.1:8000/v1
    """
    from pemoe.datasets_scripts.builds.dataset import check_target
    from pemoe.datasets_scripts.builds.llm import estimate_refining, make_backend
    from pemoe.datasets_scripts.builds.plan import make_plan
    from pemoe.datasets_scripts.builds.rows import choose_source
    from pemoe.datasets_scripts.refine import LLMRefiner

    output = output or Path("runs/data_refine")
    backend = make_backend(
        model, base_url=base_url, api_key_env=api_key_env, local=local, takes_images=images, timeout_s=timeout_s,
        response_format=response_format.value,
    )  # fmt: skip
    chosen = choose_source(root, source, filters=filters, seed=seed)
    limits = {
        "prompt_version": prompt_version, "concurrency": concurrency, "requests_per_minute": requests_per_minute,
        "retries": retries, "budget_tokens": budget_tokens, "budget_usd": budget_usd,
        "usd_per_million_in": usd_per_million_in, "usd_per_million_out": usd_per_million_out, "seed": seed,
    }  # fmt: skip
    cache = cache or output.with_name(f"{output.name}.answers.sqlite")
    if dry_run:
        _print_estimate(estimate_refining(backend, cache, limits, chosen, show_progress=True), as_json)
        return
    check_target(output, resume, overwrite)  # before the cache is made
    asked = {"model": model, "prompt_version": prompt_version, "images": images, "seed": seed}
    refiner = LLMRefiner(backend, cache, **limits)
    name, _, options = chosen
    plan = make_plan(refiner, sanitize and sanitize.value, **options | asked, kind=name)
    _build(chosen, output, plan, seed, as_json, audit=audit, resume=resume, overwrite=overwrite)


@data_app.command()
def audit(  # noqa: PLR0913 - options of a command
    root: Root,
    output: Output = None,
    source: Source = None,
    coordinates: Coordinates = None,
    names: Names = None,
    table: Table = None,
    platform: Platform = None,
    place_by: PlaceBy = None,
    phase: Phase = None,
    places: Places = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find every known defect of a data set: counts, examples by image_id, and which filter would repair it.

    Example: pemoe data audit GEOTEXT --output runs/data_audit
    """
    from pemoe.common.runs import check_output, prepare_output, write_metrics
    from pemoe.datasets_scripts.audit.defects import SEVERITIES
    from pemoe.datasets_scripts.builds.audited import audit_source, describe_errors, write_audit
    from pemoe.datasets_scripts.builds.rows import choose_source, filters_of

    started_s = time.monotonic()
    directory = check_output(output or Path("runs/data_audit"), overwrite)
    name, root, options = choose_source(
        root, source, coordinates=coordinates, names=names, table=table, platform=platform, place_id=place_by,
        phase=phase, places=places,
    )  # fmt: skip
    found = audit_source(name, root, options, show_progress=True)
    prepare_output(directory, overwrite)
    write_audit(found, directory)
    metrics = write_metrics(directory, typed_command(), None, started_s, found.to_dict())
    if as_json:
        print_json(metrics)
        return
    rows = [["defect", "severity", "findings", "filter", "for example"]]
    defects = found.to_dict()["defects"].items()
    for kind, defect in sorted(defects, key=lambda item: SEVERITIES.index(item[1]["severity"])):
        has_filter, example = "yes" if kind in filters_of(name) else "", defect["examples"][0]["image_id"] or ""
        rows.append([kind, defect["severity"], str(defect["count"]), has_filter, example])
    typer.echo(format_columns(rows) if len(rows) > 1 else "No known defect was found.")
    typer.echo(f"\n{describe_errors(found, filters_of(name))}Open {directory / 'audit.html'} for pictures and texts.")


@data_app.command()
def sanitize(
    text: Annotated[str, typer.Argument(help="A caption.")],
    mode: Annotated[Caption, typer.Option(help="remove sentences, mask words, or transform them.")] = Caption.remove,
    flip_horizontal: Annotated[bool, typer.Option("--flip-horizontal", help="transform: left and right.")] = False,
    flip_vertical: Annotated[bool, typer.Option("--flip-vertical", help="transform: top and bottom.")] = False,
    rotate_deg: Annotated[float, typer.Option(help="transform: counter-clockwise.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Show the directions of a caption, and what sanitizing leaves of it.

    Example: pemoe data sanitize "A pond. A road runs on the left." --mode transform --flip-horizontal
    """
    from dataclasses import asdict

    from pemoe.datasets_scripts.augment.captions import transform_caption
    from pemoe.datasets_scripts.augment.pictures import Geometry
    from pemoe.datasets_scripts.sanitize import find_directions, sanitize_caption

    if not -360 <= rotate_deg <= 360:
        raise typer.BadParameter(f"--rotate-deg is {rotate_deg}; give degrees from -360 to 360")
    if (flip_horizontal or flip_vertical or rotate_deg != 0) != (mode is Caption.transform):
        raise typer.BadParameter("--mode transform goes with --flip-horizontal, --flip-vertical or --rotate-deg")
    if mode is Caption.transform:
        left = transform_caption(text, Geometry(flip_horizontal, flip_vertical, rotate_deg))
    else:
        left = sanitize_caption(text, mode.value).text
    found = [asdict(direction) for direction in find_directions(text)]
    if as_json:
        print_json({"text": left, "directions": found})
        return
    for direction in found:
        typer.echo(f"{direction['text']:24} {direction['frame']:8} {direction['reason']}", err=True)
    typer.echo(left)


@data_app.command()
def publish(  # noqa: PLR0913 - options of a command
    directory: Annotated[Path, typer.Argument(help="A data set that pemoe data build wrote.")],
    repo: Repo,
    public: Public = False,
    dry_run: DryRun = False,
    license_id: Annotated[str | None, typer.Option("--license", help="Of your own data, e.g. cc-by-4.0.")] = None,
    license_note: Annotated[str | None, typer.Option(help="A sentence below it.")] = None,
    language: Annotated[str, typer.Option(help="Of the captions, ISO 639-1.")] = "en",
    title: Annotated[str | None, typer.Option(help="Of the card.")] = None,
    revision: Revision = None,
    tag: Tag = None,
    as_json: AsJson = False,
) -> None:
    """Render the data set's card and push card, Parquet and reports in one commit; run again to go on.

    Example: pemoe data publish runs/data_build --repo me/geotext-refined --dry-run
    """
    from pemoe.hub_cards import CardOptions, plan_dataset

    options = CardOptions(license_id, license_note, language, title)
    plan = plan_dataset(directory, repo, options=options, private=not public)
    carry_out(plan, dry_run, as_json, revision=revision, tag=tag)


def _build(
    source: tuple[str, str | None, dict[str, Any]],
    output: Path,
    plan: BuildPlan,
    seed: int,
    as_json: bool,
    **options: bool,
) -> None:
    """Build, write `metrics.json`, print what was built."""
    from pemoe import __version__
    from pemoe.common.runs import write_metrics
    from pemoe.datasets_scripts.builds.audited import audited_build, describe_build, loading_line

    started_s, echo = time.monotonic(), partial(typer.echo, err=True)
    report = audited_build(*source, output, plan, version=__version__, show_progress=True, on_note=echo, **options)
    metrics = write_metrics(output, typed_command(), seed, started_s, report)
    if as_json:
        print_json(metrics)
        return
    rows = [["split", "platform", "images", "places", "captions", "refined"]]
    for split, platforms in report["counts"].items():
        rows += [[split, platform, *map(str, counts.values())] for platform, counts in platforms.items()]
    typer.echo(format_columns(rows))
    for note in describe_build(report):
        echo(note)
    typer.echo(f"\n{loading_line(report['counts'], output)}\nreports: {output / 'reports'}")


def _print_estimate(figures: dict[str, Any], as_json: bool) -> None:
    """What refining would cost."""
    if as_json:
        print_json(figures)
    else:
        for name, value in figures.items():
            typer.echo(f"{name:24} {'unknown' if value is None else value}")
    prices = "; --usd-per-million-in and --usd-per-million-out give the cost" if figures["cost_usd"] is None else ""
    typer.echo(f"Nothing was asked{prices}.", err=True)
    if not figures["requests"]:
        typer.echo("There is no training caption of a known platform: see pemoe data build --help.", err=True)


def _print_fetch(plan: FetchPlan, license: Mapping[str, str], title: str) -> None:
    """What a fetch is about to do, and under which licence."""
    from pemoe.datasets_scripts.sources.download import format_bytes

    name = license.get("license_name") or license.get("license", "not stated")
    lines = [
        f"{title.split(',')[0]}: {plan.repo.repo_id} at commit {plan.commit}",
        f"licence: {name} {license.get('license_link', '')}".rstrip(),
        *(f"note: {note}" for note in plan.notes),
        f"{len(plan.files):,} files, {format_bytes(plan.total_bytes)} ({plan.total_bytes:,} bytes); "
        f"{format_bytes(plan.missing_bytes)} to fetch into {plan.directory}",
    ]
    for line in lines:
        typer.echo(line, err=True)
