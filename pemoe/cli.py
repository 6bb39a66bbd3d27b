"""The command line, `pemoe quickstart | info | train | mine | evaluate | export | publish | data`: no logic."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pemoe.common.errors import InputError
from pemoe.common.version import __version__
from pemoe.console import (
    AsJson,
    Checkpoint,
    Data,
    Output,
    Overwrite,
    Resume,
    Seed,
    check_endpoint,
    fail,
    find_accelerate_config,
    format_columns,
    has_lost_process,
    note,
    print_json,
    quiet_transformers,
    typed_command,
)
from pemoe.data_cli import data_app
from pemoe.demo_cli import demo
from pemoe.export_cli import export
from pemoe.index_cli import index_app
from pemoe.locate_cli import locate
from pemoe.mine_cli import mine
from pemoe.publish_cli import publish_app
from pemoe.serve_cli import serve

INTERRUPTED = 130  # exit code of a process that Ctrl-C ended
SHARED_COMMANDS = ("train", "mine")  # whose work several processes share
USAGE_ERROR = typer.BadParameter.__base__  # of wrong arguments; its module differs between versions of typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(publish_app, name="publish")
app.add_typer(index_app, name="index")
app.command()(locate)
app.command()(serve)
app.command()(demo)
app.command()(export)
app.command()(mine)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pemoe {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Find a place from a sentence."""
    command = context.invoked_subcommand
    if command not in SHARED_COMMANDS and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        fail(f"{command}: several processes would each do all of it; start it once, without torchrun")


@app.command()
def quickstart(
    data: Data = None, output: Output = None, seed: Seed = 0, overwrite: Overwrite = False, as_json: AsJson = False
) -> None:
    """See it work: train Table 1's four rows, save, reload, find a place (offline, minutes on two cores).

    Example: pemoe quickstart --output runs/quickstart
    """
    from pemoe.common.runs import check_output, prepare_output, write_metrics
    from pemoe.retrieval.checkpoints import device_name
    from pemoe.trainers.batches.pairs import load_rows
    from pemoe.trainers.experiments.quickstart import format_table, quickstart_recipe, run_quickstart

    started_s = time.monotonic()
    quiet_transformers()
    directory = check_output(output or Path("runs/quickstart"), overwrite)
    recipe = quickstart_recipe(data, seed)
    splits = load_rows(recipe.data, show_progress=True)
    prepare_output(directory, overwrite)
    rows: list = []
    results = run_quickstart(directory, recipe, splits, show_progress=True, on_row=rows.append)
    metrics = write_metrics(directory, typed_command(), seed, started_s, results, device_name())
    if as_json:
        print_json(metrics)
        return
    typer.echo(format_columns(format_table(rows)))
    for example in results["examples"]:
        _print_example(example)
    typer.echo(f"\n{metrics['wall_s']:.0f} s, {metrics['peak_rss_mb']:.0f} MB. Model: {directory / 'model'}")
    typer.echo(f"Open {directory / 'report.html'} for the pictures.")
    _print_located(results["located"], directory / "index")


@app.command()
def info(
    preset: Annotated[str | None, typer.Option(help="paper, campus or tiny.")] = None,
    model: Annotated[str | None, typer.Option(help="Directory or Hub id of a model instead.")] = None,
    accelerate_config: Annotated[
        str | None, typer.Option(help="Print the path of this packaged config for accelerate instead, as ddp_8gpu.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Parameters and MB of every part and of both checkpoint kinds; downloads no weights.

    Example: pemoe info --preset paper
    """
    if [preset, model, accelerate_config].count(None) != 2:
        raise typer.BadParameter("give one of --preset, --model and --accelerate-config")
    if accelerate_config is not None:
        path = find_accelerate_config(accelerate_config)
        print_json({"path": str(path)}) if as_json else typer.echo(path)
        return
    from pemoe.hub_cards.sizes import describe_sizes
    from pemoe.modeling_pemoe import PeMoEConfig
    from pemoe.retrieval.checkpoints import read_config_of

    try:
        sizes = describe_sizes(config := PeMoEConfig.preset(preset) if preset else read_config_of(model))
    except ValueError as error:  # the model's files know no error of ours
        fail(str(error))
    if as_json:
        print_json(sizes)
        return
    rows = [["", "parameters", "MB bf16", "MB fp32"]]
    for name, size in {**sizes["parts"], **sizes["checkpoints"]}.items():
        label = f"{name} checkpoint" if name in sizes["checkpoints"] else name
        rows.append([label, f"{size['parameters']:,}", f"{size['mb_bf16']:,.1f}", f"{size['mb_fp32']:,.1f}"])
    typer.echo(format_columns(rows))
    typer.echo(f"{len(config.platforms)} experts: {', '.join(config.platforms)}")
    typer.echo(f"trainable share: {100 * sizes['trainable_share']:.1f} %")


@app.command()
def train(  # noqa: PLR0913 - options of a command
    config: Annotated[
        str, typer.Option(help="Packaged recipe (quickstart, campus, paper, public_code, adapter) or a YAML file.")
    ],
    data: Data = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Trained model to start from instead of the backbones."),
    ] = None,
    platform: Annotated[str | None, typer.Option(help="Of all photos of a folder, such as infrared.")] = None,
    output: Output = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train all stages of a recipe; several GPUs: torchrun --nproc-per-node=8 -m pemoe train ...

    Example: pemoe train --config quickstart --output runs/train

    Example: pemoe train --config adapter --checkpoint me/pemoe --data photos --platform infrared
    """
    from pemoe.trainers.parallel.distributed import lacks_processes
    from pemoe.trainers.recipes import read_config
    from pemoe.trainers.train import train_into

    quiet_transformers()
    directory = output or Path("runs/train")
    if lacks_processes():
        note("pemoe: accelerate starts one process on the CPU, whatever --num_processes says; use torchrun for more")

    def show(plan: list[dict]) -> None:
        columns = ("stage", "platform", "joined_batch_size", "steps", "places", "images")
        rows = [[str(line[name]) for name in columns] for line in plan]
        typer.echo(format_columns([list(columns), *rows]), err=True)

    recipe = read_config(config, data, seed, checkpoint, platform)
    metrics = train_into(directory, recipe, typed_command(), overwrite, resume, show)
    if metrics is not None:  # on the first process
        _report(metrics, as_json, f"Model: {directory / 'model'}")


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    data: Data = None,
    output: Output = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Recall@k and Score of the test split: every caption searches the whole mixed gallery.

    Example: pemoe evaluate runs/quickstart/model
    """
    from pemoe.common.runs import check_output, prepare_output, write_metrics
    from pemoe.retrieval.checkpoints import describe_model, device_name, load_checkpoint
    from pemoe.retrieval.evaluation import evaluate_split
    from pemoe.trainers.batches.pairs import load_rows
    from pemoe.trainers.checkpoint_io import data_of, describe_data

    started_s = time.monotonic()
    quiet_transformers()
    directory = check_output(output or Path("runs/evaluate"), overwrite)
    recipe = data_of(checkpoint, data)
    model, processor = load_checkpoint(checkpoint)
    rows = load_rows(recipe, show_progress=True, needed=("test",))["test"]
    measured = describe_data(recipe, "test", rows), describe_model(checkpoint, model.config)
    prepare_output(directory, overwrite)
    results = evaluate_split(model, processor, rows)
    metrics = write_metrics(directory, typed_command(), None, started_s, results, device_name(), *measured)
    _report(metrics, as_json, f"{directory / 'metrics.json'}")


def main() -> None:
    """Entry point: exit code 0, 2 with one line on bad input, 1 on a failure of ours."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read where a command imports transformers later
    try:
        check_endpoint()
        code = app(prog_name="pemoe", standalone_mode=False)
    except typer.Exit as done:
        code = done.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except USAGE_ERROR as error:
        fail(error.format_message())
    except InputError as error:
        fail(str(error))
    except OSError as error:  # a disk, a network; anything else is a failure of ours: traceback and exit code 1
        fail(str(error))
    except RuntimeError as error:
        if not has_lost_process(error):
            raise
        fail("another process of this run has ended, so this one cannot go on; it or the launcher says why")
    if code == INTERRUPTED:  # typer turns the signal into this code
        note("\npemoe: interrupted; where a command has --resume, it goes on with what was done")
    sys.exit(code if isinstance(code, int) else 0)


def _report(metrics: dict, as_json: bool, where: str) -> None:
    if as_json:
        print_json(metrics)
        return
    figures = metrics["results"].get("test", metrics["results"]) or {}
    if not figures:
        typer.echo("The data has no test captions, so nothing was measured.")
    for name, value in figures.items():
        if isinstance(value, int | float):
            typer.echo(f"{name:24} {value:.4f}" if isinstance(value, float) else f"{name:24} {value}")
    for platform, alone in metrics["results"].get("alone", {}).items():
        label = f"{platform} alone"
        typer.echo(f"{label:24} recall_at_1 {alone['recall_at_1']:.4f}, recall_at_10 {alone['recall_at_10']:.4f}")
    typer.echo(f"\n{metrics['wall_s']:.0f} s. {where}")


def _print_example(example: dict) -> None:
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in example["gate_weights"].items())
    picture = f"{example['platform']} picture of place {example['place_id']}"
    typer.echo(f"\n“{example['query']}” ({picture}; gate: {weights})")
    for rank, hit in enumerate(example["hits"], 1):
        verdict = "right place" if hit["is_right"] else ""
        typer.echo(f"  {rank}. {hit['score']:.3f}  place {hit['place_id']}  {hit['platform']:9}  {verdict}".rstrip())


def _print_located(answer: dict, index: Path) -> None:
    """A query, its first place with coordinates, and what to type next."""
    place, text = answer["places"][0], " ".join(answer["texts"])
    known = place["latitude_deg"] is not None
    where = f"{place['latitude_deg']:.6f}, {place['longitude_deg']:.6f}" if known else "no coordinates in the data"
    odds = "" if place["probability"] is None else f", probability {place['probability']:.2f}"
    typer.echo(f"\nIndexed {answer['pictures_searched']} pictures. “{text}”\n  place {place['name']} at {where}{odds}")
    typer.echo(f"Try next:\n  pemoe locate {shlex.quote(text)} --index {shlex.quote(str(index))}")
    typer.echo(f"  pemoe demo --index {shlex.quote(str(index))}")


if __name__ == "__main__":
    main()
