"""Training from a recipe: `python -m pemoe.trainers.train --config paper --data DIR`, alone or under torchrun."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pemoe.retrieval.evaluation import evaluate_split
from pemoe.retrieval.runs import prepare_output, write_json
from pemoe.trainers.distributed import rank
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.quickstart import load_rows
from pemoe.trainers.recipes import Recipe, load_recipe
from pemoe.trainers.stages import StageRunner, build_model

RECIPE = "recipe.json"


def read_config(config: str, data: str | None = None, seed: int | None = None) -> Recipe:
    """A recipe with the command line's data directory and seed put in.

    Raises:
        TrainingError: a bad recipe, or one that needs a data directory and got none.
    """
    recipe = load_recipe(config)
    if data is not None:
        recipe = replace(recipe, data=replace(recipe.data, source="geotext1652", root=data, options={}))
    if recipe.data.source != "campus" and recipe.data.root is None:
        raise TrainingError(f"recipe {config}: its source {recipe.data.source!r} lies on disk; give --data DIR")
    return recipe if seed is None else replace(recipe, seed=seed)


def run_training(
    recipe: Recipe,
    output: Path,
    resume: bool = False,
    show_progress: bool = False,
    on_plan: Callable[[list[dict]], None] | None = None,
) -> dict:
    """All stages of a recipe, the trained checkpoint in `output/model`, and its figures on the test split.

    Args:
        recipe: the run.
        output: a prepared directory.
        resume: go on where an earlier run of the same recipe stopped.
        show_progress: draw progress bars.
        on_plan: called on the first process, before training, with batch and steps of every stage and platform.

    Returns:
        `{"stages": {name: record}, "test": figures}`; `test` is None on all processes but the first.

    Raises:
        TrainingError: `resume` with another recipe; DataError, OSError: data or backbones that cannot be read.
    """
    remember_recipe(recipe, output, resume)
    splits = load_rows(recipe.data, show_progress)
    model, processor = build_model(recipe)
    runner = StageRunner(model, processor, splits["train"], recipe, output, resume, show_progress)
    if on_plan is not None and rank() == 0:
        on_plan(runner.plan())
    records = runner.run()
    if rank() != 0:
        return {"stages": records, "test": None}
    model.save_pretrained(output / "model")
    processor.save_pretrained(output / "model")
    return {"stages": records, "test": evaluate_split(model, processor, splits["test"])}


def remember_recipe(recipe: Recipe, output: Path, resume: bool) -> None:
    """Write the recipe beside the run, or compare it with the one that the run was started with."""
    content = json.loads(json.dumps(dataclasses.asdict(recipe)))
    path = output / RECIPE
    if resume and path.is_file():
        if json.loads(path.read_text()) != content:
            raise TrainingError(f"{path}: this run was started with another recipe; resume with that one")
    elif rank() == 0:
        write_json(path, content)


def main(argv: list[str] | None = None) -> None:
    """For torchrun and `accelerate launch`; the `pemoe train` command offers the same with messages for people."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="packaged recipe name or YAML path")
    parser.add_argument("--data", help="directory in GeoText-1652's layout")
    parser.add_argument("--output", type=Path, default=Path("runs/train"))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(argv)
    try:
        recipe = read_config(options.config, options.data, options.seed)
        output = prepare_output(options.output, options.overwrite, options.resume) if rank() == 0 else options.output
        run_training(recipe, output, options.resume, show_progress=True)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
