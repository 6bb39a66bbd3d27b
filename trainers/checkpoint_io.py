"""Trained checkpoints: read for use, with the data that their run was trained on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import datasets

from pemoe.common.fingerprints import hash_lines
from pemoe.retrieval.checkpoints import read_config_of
from pemoe.trainers.batches.pairs import DataRecipe
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.recipes import Recipe, build, data_recipe


def data_of(checkpoint: str, data: str | None = None) -> DataRecipe:
    """Where the rows come from: what the user names, else what the run beside the checkpoint was trained on.

    Raises TrainingError: no such run, or one that does not say it, or whose data directory is not there.
    """
    if data is not None:
        return data_recipe(data)
    run = Path(checkpoint).parent / "recipe.json"
    if not run.is_file():
        read_config_of(checkpoint)
        what = "no recipe.json beside it says what it was trained on"
        raise TrainingError(f"{checkpoint}: {what}; name the data with --data (--data campus is the rendered campus)")
    try:
        recipe = build(DataRecipe, json.loads(run.read_text(encoding="utf-8"))["data"], str(run))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{run} does not say what the model was trained on; give --data") from error
    if recipe.root is not None and not Path(recipe.root).is_dir():
        raise TrainingError(f"{run}: trained on {recipe.root}, which is no directory here; name the data with --data")
    return recipe


def recipe_record(recipe: Recipe) -> dict:
    """A recipe as `recipe.json` holds it: directories by their whole paths, for commands run from elsewhere."""
    content = asdict(recipe)
    content["data"]["root"] = _whole_path(recipe.data.root)
    content["model"]["checkpoint"] = _whole_path(recipe.model.checkpoint)
    return content


def describe_data(data: DataRecipe, split: str, rows: datasets.Dataset) -> dict:
    """What figures were measured on, for `metrics.json`: `{"source", "root", "fingerprint", "split", "rows"}`.

    The fingerprint is of places, platforms and captions in their order, so it is the same on every machine; `root` is
    the id of a data set on the Hub, the whole path of a directory, or None for the campus.
    """
    columns = rows.select_columns(["image_id", "place_id", "platform", "captions"])
    fingerprint = hash_lines(json.dumps(list(row.values())) for row in columns)
    root = _whole_path(data.root)
    return {"source": data.source, "root": root, "fingerprint": fingerprint, "split": split, "rows": len(rows)}


def _whole_path(root: str | None) -> str | None:
    return os.path.abspath(root) if root is not None and Path(root).is_dir() else root
