"""Training from a recipe: what `pemoe train` does, also as `torchrun -m pemoe.trainers.train --config paper ...`."""

from __future__ import annotations

import errno
import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import torch
from safetensors import SafetensorError

from pemoe.common.errors import one_line
from pemoe.common.files import write_json
from pemoe.common.runs import check_output, prepare_output, write_metrics
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.checkpoints import describe_model, device_name
from pemoe.retrieval.evaluation import evaluate_split
from pemoe.trainers.batches.pairs import load_rows
from pemoe.trainers.batches.validation import hold_out_places
from pemoe.trainers.checkpoint_io import describe_data, recipe_record
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.evaluating import searching_alone
from pemoe.trainers.parallel.distributed import (
    check_precision,
    first_process_first,
    join_processes,
    process_count,
    rank,
    wait_for_all,
)
from pemoe.trainers.parallel.sharding import splitter
from pemoe.trainers.recipes import Recipe, build
from pemoe.trainers.stages import StageRunner
from pemoe.trainers.starting import build_model, check_gate_rows, name_platforms, save_whole

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
MAY_CHANGE = ("num_workers", "logging_steps", "report_to")  # between a run and its resume: they move no weight
TORCH_CANNOT_WRITE = ("PytorchStreamWriter failed", "unexpected pos")  # of torch.save


def train_into(
    output: Path,
    recipe: Recipe,
    command: str,
    overwrite: bool = False,
    resume: bool = False,
    on_plan: Callable[[list[dict]], None] | None = None,
) -> dict | None:
    """A whole run: data read, directory prepared, all stages, `output/model`, its figures, `metrics.json`.

    Args:
        output, recipe: directory of the run, and the run.
        command: as typed, for `metrics.json`.
        overwrite, resume: replace an earlier run there, or go on where one of the same recipe stopped.
        on_plan: called on the first process, before training, with batch and steps of every stage and platform.

    Returns:
        What `metrics.json` holds, its results `{"stages": {name: record}, "test": figures}`, figures None without test
        captions, and `"alone": {platform: figures}` of new platforms that the gate does not know; None on all
        processes but the first.

    Raises:
        RunError, TrainingError, DataError, OSError: bad directory, recipe, data or backbones.
    """
    started_s = time.monotonic()
    check_precision(recipe.precision)
    if rank() == 0:
        check_output(output, overwrite, resume)
    join_processes()
    with first_process_first():  # what it prepared and cached, the others read
        splits = load_rows(recipe.data, needed=("train",), optional=("test",), show_progress=rank() == 0)
    recipe = name_platforms(recipe, splits["train"])
    if rank() == 0 and resume:
        _check_recipe(recipe, output)
    model, processor = build_model(recipe)
    check_gate_rows(model, recipe, splits["train"])
    rows, validation = hold_out_places(splits["train"], recipe.validation.places, recipe.seed)
    runner = StageRunner(model, processor, rows, recipe, output, resume, show_progress=True, validation=validation)
    plan = runner.plan()  # all that can be refused has been: only now is anything written
    if rank() == 0:
        prepare_output(output, overwrite, resume)
        write_json(output / "recipe.json", _recipe_content(recipe))
        if on_plan is not None:
            on_plan(plan)
    wait_for_all()
    with name_full_disk(output):
        records = runner.run()
        runner.merge_adapters()
        if rank() != 0:
            return None
        if recipe.precision == "bfloat16":
            model.to(torch.bfloat16)  # one dtype, so that what is evaluated is what a reload gives
        save_whole(model, processor, output / "model")
    figures = evaluate_split(model, processor, splits["test"]) if any(splits["test"]["captions"]) else None
    results = {"stages": records, "test": figures}
    if alone := _measure_alone(model, processor, splits["test"], recipe):
        results["alone"] = alone
    data = describe_data(recipe.data, "test", splits["test"])
    measured = describe_model(output / "model")
    return write_metrics(output, command, recipe.seed, started_s, results, device_name(), data, measured)


def _measure_alone(
    model: PeMoEModel, processor: PeMoEProcessor, rows: datasets.Dataset, recipe: Recipe
) -> dict[str, dict]:
    """Figures of trained platforms that the gate does not know: rows of each, searched with its expert alone."""
    figures = {}
    for name in model.config.masked_platforms if recipe.model.checkpoint is not None else ():
        names = rows.features["platform"].names
        number = names.index(name) if name in names else -1
        chosen = rows.select([row for row, platform in enumerate(rows["platform"]) if platform == number])
        if name in recipe.model.platforms and any(chosen["captions"]):
            with searching_alone(model.config, name):
                figures[name] = evaluate_split(model, processor, chosen)
    return figures


def _recipe_content(recipe: Recipe) -> dict:
    """What `recipe.json` holds: the recipe, and the number of processes, on which the batches depend."""
    return json.loads(json.dumps({**recipe_record(recipe), "processes": process_count(), "splitter": splitter()}))


def _check_recipe(recipe: Recipe, output: Path) -> None:
    """Compare a recipe with the one that the run was started with, where it came so far as to write it.

    Raises TrainingError: another recipe, or another number of processes, which would draw other batches.
    """
    path, content = output / "recipe.json", _recipe_content(recipe)
    if not path.is_file():
        return
    before = json.loads(path.read_text())
    launch = {name: before.pop(name, None) for name in ("processes", "splitter")}
    before = {**_recipe_content(build(Recipe, before, str(path))), **launch}  # with fields that are newer than the run
    for settings in (before, content):
        settings["feature_cache"] = {name: settings["feature_cache"][name] for name in ("dtype", "batch_size")}
    changed = [name for name in content if name not in MAY_CHANGE and before[name] != content[name]]
    if changed:
        raise TrainingError(f"{path}: this run was started with another {changed[0]}; resume with the same")


@contextmanager
def name_full_disk(output: Path) -> Iterator[None]:
    """Turn the several ways in which writers say that they cannot write into one line.

    Raises TrainingError: no room, or no right to write; finished stages and whole checkpoints stay as they are.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        from_torch = isinstance(error, RuntimeError) and any(words in str(error) for words in TORCH_CANNOT_WRITE)
        from_system = isinstance(error, OSError) and error.errno in CANNOT_WRITE
        from_safetensors = isinstance(error, SafetensorError) and "I/O error" in str(error)
        if not (from_torch or from_system or from_safetensors):
            raise
        advice = "what is there stays; make room, then go on with --resume"
        raise TrainingError(f"{output}: a file cannot be written ({_reason(error)}): {advice}") from error


def _reason(error: Exception) -> str:
    """The system's own words; PyTorch's writer keeps them to itself."""
    if isinstance(error, OSError):
        return os.strerror(error.errno)
    return "the disk is full" if isinstance(error, RuntimeError) else one_line(error)


if __name__ == "__main__":  # for torchrun and `accelerate launch`: the same command line as `pemoe train`
    sys.argv.insert(1, "train")
    runpy.run_module("pemoe", run_name="__main__")
