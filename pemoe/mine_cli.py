"""The command `pemoe mine`: parses, calls and prints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pemoe.console import (
    AsJson,
    Checkpoint,
    Data,
    Output,
    Overwrite,
    Resume,
    Seed,
    print_json,
    quiet_transformers,
    typed_command,
)


def mine(  # noqa: PLR0913 -- the command's options
    checkpoint: Checkpoint,
    data: Data = None,
    output: Output = None,
    k: Annotated[int, typer.Option(min=1, help="Negatives per query.")] = 10,
    captions: Annotated[str, typer.Option(help="Queries of a picture: one caption, or all of them.")] = "one",
    positive_ratio: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out what scores above this share of the own picture.")
    ] = None,
    max_score: Annotated[float | None, typer.Option(min=-1, max=1, help="Leave out what scores above this.")] = None,
    min_distance_m: Annotated[float | None, typer.Option(min=0, help="Leave out what lies nearer than this.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Find the hard negatives of the training split: OUTPUT/negatives.parquet, a row per query, with scores.

    Several processes: torchrun --nproc-per-node=8 -m pemoe mine ...

    Example: pemoe mine runs/train/model --output runs/mine
    """
    from pemoe.common.files import write_json
    from pemoe.common.runs import check_output, prepare_output, write_metrics
    from pemoe.retrieval.checkpoints import describe_model, device_name, load_checkpoint
    from pemoe.trainers.batches.pairs import load_rows
    from pemoe.trainers.checkpoint_io import data_of, describe_data
    from pemoe.trainers.mining import NEGATIVES, MineRecipe, mine_split
    from pemoe.trainers.parallel.distributed import (
        first_process_first,
        join_processes,
        rank,
        wait_for_all,
    )

    started_s = time.monotonic()
    quiet_transformers()
    directory, first = output or Path("runs/mine"), rank() == 0
    rules = {"positive_ratio": positive_ratio, "max_score": max_score, "min_distance_m": min_distance_m}
    MineRecipe(k=k, captions=captions, **rules)  # refused before anything is read
    if first:
        check_output(directory, overwrite, resume)
    recipe = data_of(checkpoint, data)
    model, processor = load_checkpoint(checkpoint)
    join_processes()
    with first_process_first():  # what it prepared and cached, the others read
        rows = load_rows(recipe, show_progress=first, needed=("train",))["train"]
    if first:
        prepare_output(directory, overwrite, resume)
        write_json(directory / "recipe.json", {"checkpoint": checkpoint, "k": k, "captions": captions, **rules})
    wait_for_all()
    place = {"directory": directory, "resume": resume, "show_progress": first}
    negatives = mine_split(model, processor, rows, k, seed=seed, captions=captions, **rules, **place)
    if not first:
        return
    results = {"rows": len(negatives), "k": k, "found": int((negatives >= 0).sum())}
    measured = describe_data(recipe, "train", rows), describe_model(checkpoint, model.config)
    metrics = write_metrics(directory, typed_command(), seed, started_s, results, device_name(), *measured)
    if as_json:
        print_json(metrics)
        return
    for name, value in results.items():
        typer.echo(f"{name:24} {value}")
    typer.echo(f"\n{metrics['wall_s']:.0f} s. {directory / NEGATIVES}")
