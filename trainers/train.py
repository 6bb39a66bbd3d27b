"""Training from a recipe: `python -m pemoe.trainers.train --config paper --data DIR`, alone or under torchrun."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import torch

from pemoe.common.files import write_json
from pemoe.common.runs import RunError, check_output, prepare_output, write_metrics
from pemoe.datasets_scripts import DataError
from pemoe.retrieval.evaluation import evaluate_split
from pemoe.trainers.distributed import device_name, process_count, rank
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.experiments.quickstart import load_rows
from pemoe.trainers.recipes import Recipe, data_recipe, load_recipe
from pemoe.trainers.stages import StageRunner, build_model

RECIPE = "recipe.json"


def read_config(config: str, data: str | None = None, seed: int | None = None) -> Recipe:
    """A recipe with the command line's data directory and seed put in; a seed also renders another campus.

    Raises:
        TrainingError: a bad recipe, or one that needs a data directory and got none.
    """
    recipe = load_recipe(config)
    if data is not None:
        recipe = replace(recipe, data=data_recipe(data))
    if recipe.data.source != "campus" and recipe.data.root is None:
        raise TrainingError(f"recipe {config}: its source {recipe.data.source!r} lies on disk; give --data DIR")
    if seed is None:
        return recipe
    options = {**recipe.data.options, "seed": seed} if recipe.data.source == "campus" else recipe.data.options
    return replace(recipe, seed=seed, data=replace(recipe.data, options=options))


def train_into(
    output: Path,
    recipe: Recipe,
    command: str,
    overwrite: bool = False,
    resume: bool = False,
    on_plan: Callable[[list[dict]], None] | None = None,
) -> dict | None:
    """A whole run: data read first, then the directory prepared, trained, saved, evaluated, `metrics.json` written.

    Returns:
        What `metrics.json` holds; None on all processes but the first.

    Raises:
        RunError, TrainingError, DataError, OSError: bad directory, recipe, data or backbones.
    """
    started_s = time.monotonic()
    if rank() == 0:
        check_output(output, overwrite, resume)
    splits = load_rows(recipe.data, show_progress=rank() == 0, needed=("train",))
    if rank() == 0:
        prepare_output(output, overwrite, resume)
        remember_recipe(recipe, output, resume)
    results = run_training(recipe, splits, output, resume, show_progress=True, on_plan=on_plan)
    if results is None:
        return None
    return write_metrics(output, command, recipe.seed, started_s, results, device_name())


def run_training(
    recipe: Recipe,
    splits: datasets.DatasetDict,
    output: Path,
    resume: bool = False,
    show_progress: bool = False,
    on_plan: Callable[[list[dict]], None] | None = None,
) -> dict | None:
    """All stages of a recipe, the trained checkpoint in `output/model`, and its figures on the test split.

    Args:
        recipe: the run.
        splits: from `load_rows`.
        output: a prepared directory.
        resume: go on where an earlier run of the same recipe stopped.
        show_progress: draw progress bars.
        on_plan: called on the first process, before training, with batch and steps of every stage and platform.

    Returns:
        `{"stages": {name: record}, "test": figures}` of the checkpoint as saved, figures None without test captions;
        None on all processes but the first.
    """
    model, processor = build_model(recipe)
    runner = StageRunner(model, processor, splits["train"], recipe, output, resume, show_progress)
    if on_plan is not None and rank() == 0:
        on_plan(runner.plan())
    records = runner.run()
    if rank() != 0:
        return None
    if recipe.precision == "bfloat16":
        model.to(torch.bfloat16)  # one dtype, so that what is evaluated is what a reload gives
    model.save_pretrained(output / "model")
    processor.save_pretrained(output / "model")
    figures = evaluate_split(model, processor, splits["test"]) if any(splits["test"]["captions"]) else None
    return {"stages": records, "test": figures}


def remember_recipe(recipe: Recipe, output: Path, resume: bool) -> None:
    """Write the recipe beside the run, or compare it with the one that the run was started with.

    Raises:
        TrainingError: another recipe, or another number of processes, which would draw other batches.
    """
    content = json.loads(json.dumps({**dataclasses.asdict(recipe), "processes": process_count()}))
    path = output / RECIPE
    if not (resume and path.is_file()):
        write_json(path, content)
        return
    before = json.loads(path.read_text())
    changed = [name for name in content if before.get(name) != content[name]]
    if changed:
        raise TrainingError(f"{path}: this run was started with another {changed[0]}; resume with the same")


def main(argv: list[str] | None = None) -> None:
    """For torchrun and `accelerate launch`; the same run as the `pemoe train` command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="packaged recipe name or YAML path")
    parser.add_argument("--data", help="directory in GeoText-1652's layout")
    parser.add_argument("--output", type=Path, default=Path("runs/train"))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(argv)

    def tell(plan: list[dict]) -> None:
        for line in plan:
            sys.stderr.write("{stage} {platform}: {steps} steps of {joined_batch_size} pairs\n".format(**line))

    try:
        recipe = read_config(options.config, options.data, options.seed)
        command = " ".join(["pemoe.trainers.train", *(sys.argv[1:] if argv is None else argv)])
        train_into(options.output, recipe, command, options.overwrite, options.resume, tell)
    except (RunError, TrainingError, DataError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    main()
