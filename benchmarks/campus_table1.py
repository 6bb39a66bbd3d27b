"""Table 1 on the rendered campus over several seeds, with paired bootstrap intervals over places.

    python benchmarks/campus_table1.py --output runs/campus_table1

Every row sees the same number of pairs, those behind its initialisation counted; the unified model at twice the pairs
is an extra row. A seed changes the rendered places, the fresh weights and every draw. With `--jobs 2` two seeds run at
a time, each in a process of its own with its share of the cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pemoe.common.files import write_json
from pemoe.common.runs import RunError, prepare_output, write_metrics
from pemoe.retrieval.metrics import bootstrap_difference
from pemoe.trainers.batches.pairs import load_rows
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.experiments.table1 import ROWS, Row, Table1
from pemoe.trainers.recipes import Recipe, load_recipe
from pemoe.trainers.starting import build_model

EXTRA = "unified+refined_x2"
COMPARISONS = (
    ("unified+refined", "unified"),
    ("experts_uniform", "unified+refined"),
    ("experts_gated", "experts_uniform"),
    ("experts_gated", "unified"),
    ("experts_gated", EXTRA),
)


Outcome = tuple[list[Row], np.ndarray, dict]


def run_seeds(recipe: Recipe, seeds: list[int], output: Path, jobs: int, show_progress: bool) -> Iterator[Outcome]:
    """The outcome of every seed in the order given, `jobs` of them at a time."""
    run = partial(run_seed, recipe, output, show_progress)
    if jobs == 1:
        yield from map(run, seeds)
        return
    threads = max((os.cpu_count() or 1) // jobs, 1)
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        yield from pool.map(run, seeds)


def run_seed(recipe: Recipe, output: Path, show_progress: bool, seed: int) -> Outcome:
    """All rows of one seed without their models, the place of each test query, and facts about the run."""
    data = replace(recipe.data, options={**recipe.data.options, "seed": seed})
    recipe = replace(recipe, seed=seed, data=data)
    splits = load_rows(recipe.data, show_progress=show_progress)
    directory = output / f"seed{seed}"
    table = Table1(
        *build_model(recipe), splits, recipe, directory, show_progress, on_row=partial(print_row, f"seed {seed}")
    )
    rows = [replace(row, model=None) for row in (*table.run(), table.unified(EXTRA, "refined_captions", budget=2.0))]
    test = splits["test"]
    places = np.repeat([f"{seed}/{place}" for place in test["place_id"]], [len(c) for c in test["captions"]])
    return rows, places, {"test_images": test.num_rows, "train_images": splits["train"].num_rows}


def print_row(run: str, row: Row) -> None:
    """One line for a finished row of a run."""
    figures = row.figures
    by_platform = " ".join(f"{p[:3]} {100 * f['recall_at_1']:.1f}" for p, f in figures["per_platform"].items())
    print(
        f"{run} {row.name:20} {row.pairs_seen:7d} pairs  R@1 {100 * figures['recall_at_1']:5.1f}  R@5 "
        f"{100 * figures['recall_at_5']:5.1f}  R@10 {100 * figures['recall_at_10']:5.1f}  Score "
        f"{100 * figures['score']:5.1f}  ({by_platform})  {row.seconds:.0f} s",
        flush=True,
    )


def summarise(by_seed: list[tuple[list[Row], np.ndarray]]) -> dict:
    """Means over seeds, and differences of R@1 and Score with 95 % intervals over the places of all seeds."""
    places = np.concatenate([places for _, places in by_seed])
    ranks = {
        name: np.concatenate([next(r.ranks for r in rows if r.name == name) for rows, _ in by_seed])
        for name in (*ROWS, EXTRA)
    }
    score = {name: ((rank < 1).astype(float) + (rank < 10)) / 2 for name, rank in ranks.items()}
    means = {
        name: {f"recall_at_{k}": float((rank < k).mean()) for k in (1, 5, 10)} | {"score": float(score[name].mean())}
        for name, rank in ranks.items()
    }
    differences = {}
    for better, worse in COMPARISONS:
        for figure, table in (("recall_at_1", {n: (r < 1).astype(float) for n, r in ranks.items()}), ("score", score)):
            mean, low, high = bootstrap_difference(table[better], table[worse], places)
            differences[f"{better} - {worse}: {figure}"] = {"mean": mean, "low": low, "high": high}
    ratio = means["experts_gated"]["score"] / means["unified"]["score"]
    return {"means": means, "differences": differences, "score_ratio_gated_to_unified": ratio, "queries": len(places)}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="campus", help="packaged recipe name or YAML path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--output", type=Path, default=Path("runs/campus_table1"))
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--progress", action="store_true")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; give 1 or more")
    started_s = time.monotonic()
    try:
        recipe = load_recipe(options.recipe)
        output = prepare_output(options.output, options.overwrite)
    except (RunError, TrainingError) as error:
        print(f"campus_table1: {error}", file=sys.stderr)
        return 2
    write_json(output / "recipe.json", {"recipe": options.recipe, "seeds": options.seeds})
    outcomes = list(run_seeds(recipe, options.seeds, output, options.jobs, options.progress))
    by_seed, facts = [(rows, places) for rows, places, _ in outcomes], outcomes[-1][2]
    summary = summarise(by_seed)
    results = {
        **summary,
        **facts,
        "seeds": {str(s): [r.as_json() for r in rows] for s, (rows, _) in zip(options.seeds, by_seed, strict=True)},
    }
    write_metrics(output, "benchmarks/campus_table1.py --recipe " + options.recipe, None, started_s, results)
    print(f"\n{summary['queries']} queries over {len(options.seeds)} seeds, percent")
    for name, figures in summary["means"].items():
        print(f"{name:20} " + "  ".join(f"{figure} {100 * value:5.1f}" for figure, value in figures.items()))
    for name, interval in summary["differences"].items():
        print(f"{name:55} {100 * interval['mean']:+.1f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]")
    print(f"Score of the gated row over the unified one: {summary['score_ratio_gated_to_unified']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
