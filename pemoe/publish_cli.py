"""The commands `pemoe publish model | space | metric`, and what they share with `pemoe data publish`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pemoe.console import AsJson, format_columns, print_json

if TYPE_CHECKING:
    from pemoe.hub_cards import PushPlan

publish_app = typer.Typer(no_args_is_help=True, help="Publish models, Spaces and metrics on the Hub.")


class Metric(str, Enum):
    """The metrics that the package holds."""

    geo_recall = "geo_recall"
    challenge_score = "challenge_score"


Repo = Annotated[str, typer.Option(help="owner/name on the Hub.")]
Public = Annotated[bool, typer.Option("--public", help="Let everybody see it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the card and what would be sent; reach no server.")]
Revision = Annotated[str | None, typer.Option(help="Branch, made when it does not exist.")]
Tag = Annotated[str | None, typer.Option(help="Name for the commit, e.g. v1.0.")]


@publish_app.command()
def model(  # noqa: PLR0913 - options of a command
    directory: Annotated[Path, typer.Argument(help="A checkpoint, or LoRA platforms.")],
    repo: Repo,
    public: Public = False,
    metrics: Annotated[
        Path | None, typer.Option(help="Figures of the card (default: metrics.json there or above).")
    ] = None,
    unmeasured: Annotated[bool, typer.Option("--unmeasured", help="Publish without figures.")] = False,
    license_id: Annotated[str | None, typer.Option("--license", help="Of the weights, e.g. mit.")] = None,
    revision: Revision = None,
    tag: Tag = None,
    max_shard_size: Annotated[str, typer.Option(help="Larger weights are cut into shards.")] = "5GB",
    gallery: Annotated[
        str | None,
        typer.Option(help="An index of the model: the repository becomes an Inference Endpoint that locates."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Render the model's card and push it with weights, code, processor and figures in one commit; run again to go on.

    Example: pemoe publish model runs/train/model --repo me/pemoe --dry-run
    """
    from pemoe.hub_cards import plan_model

    plan = plan_model(
        directory, repo, metrics=metrics, unmeasured=unmeasured, license_id=license_id, private=not public,
        max_shard_size=max_shard_size, gallery=gallery,
    )  # fmt: skip
    carry_out(plan, dry_run, as_json, revision=revision, tag=tag)


@publish_app.command()
def space(  # noqa: PLR0913 - options of a command
    repo: Repo,
    model: Annotated[str, typer.Option(help="The published model that it shows, owner/name.")],
    gallery: Annotated[str | None, typer.Option(help="The published data set that it searches, owner/name.")] = None,
    model_revision: Annotated[
        str | None, typer.Option(help="Commit or tag of the model (default: its newest commit).")
    ] = None,
    gallery_revision: Annotated[
        str | None, typer.Option(help="Commit or tag of the gallery (default: its newest commit).")
    ] = None,
    public: Public = False,
    private_model: Annotated[
        bool, typer.Option("--private-model", help="Say in its README which secret lets it read model and gallery.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Push a Space in which everybody may search with a published model.

    Example: pemoe publish space --repo me/pemoe-demo --model me/pemoe --dry-run
    """
    from pemoe.hub_cards import plan_space
    from pemoe.hub_cards.push import newest_commit

    def plan_at(model_revision: str | None, gallery_revision: str | None) -> PushPlan:
        revisions = {"model_revision": model_revision, "gallery_revision": gallery_revision}
        return plan_space(repo, model, gallery, private=not public, private_model=private_model, **revisions)

    plan = plan_at(model_revision, gallery_revision)
    if not dry_run:
        model_revision = model_revision or newest_commit(model, "model")
        if gallery is not None:
            gallery_revision = gallery_revision or newest_commit(gallery, "dataset")
        plan = plan_at(model_revision, gallery_revision)
    carry_out(plan, dry_run, as_json)


@publish_app.command()
def metric(
    name: Annotated[Metric, typer.Argument(help="Which one.")],
    repo: Repo,
    public: Public = False,
    tag: Tag = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Push a metric that `evaluate.load("owner/name")` reads, as a Space.

    Example: pemoe publish metric geo_recall --repo me/geo_recall --dry-run
    """
    from pemoe.hub_cards import plan_metric

    carry_out(plan_metric(name.value, repo, private=not public), dry_run, as_json, tag=tag)


def carry_out(
    plan: PushPlan, dry_run: bool, as_json: bool, revision: str | None = None, tag: str | None = None
) -> None:
    """Push a plan, or with `dry_run` print it; the result as one line or as one JSON object."""
    from dataclasses import asdict

    from pemoe.hub_cards import push
    from pemoe.hub_cards.hub_client import check_ref_names

    check_ref_names(revision, tag)
    if dry_run:
        _print_plan(plan, as_json)
        return
    for note in plan.notes:
        typer.echo(note, err=True)
    result = push(plan, revision=revision, tag=tag, show_progress=True)
    if as_json:
        print_json(asdict(result))
        return
    named = (f", tag {result.tag}" if result.tag else "") + ("" if result.changed else "; nothing changed")
    typer.echo(f"{result.url} ({'private' if result.private else 'public'}), commit {result.commit}{named}")


def _print_plan(plan: PushPlan, as_json: bool) -> None:
    """What a push would send, the card it would write, and what stays."""
    if as_json:
        about = {"repo": plan.repo_id, "repo_type": plan.repo_type, "private": plan.private}
        sizes = {"total_bytes": plan.total_bytes, "bytes": {file.path: file.size_bytes for file in plan.files}}
        rest = {"notes": plan.notes, "left_out": plan.left_out, "card": plan.card}
        print_json({**about, **sizes, "files": [file.path for file in plan.files], **rest})
        return
    typer.echo(plan.card)
    files = [[file.path, f"{file.size_bytes:,}"] for file in plan.files]
    typer.echo(format_columns([["file", "bytes"], *files]), err=True)
    for note in plan.notes:
        typer.echo(note, err=True)
    if plan.left_out:
        typer.echo(f"not sent: {', '.join(plan.left_out)}", err=True)
    typer.echo(f"{plan.total_bytes:,} bytes would go to {plan.repo_id}; nothing was sent", err=True)
