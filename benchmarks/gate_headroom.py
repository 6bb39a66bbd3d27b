"""What any gate could gain: the gated row's experts under other weights, the true platform's among them.

    python benchmarks/gate_headroom.py runs/campus_table1

Reads the runs that benchmarks/campus_table1.py left, renders their test places again, and scores the same experts
with the learned gate, with uniform weights, and with an oracle that puts a share of the weight on the expert of the
platform the query was asked of and spreads the rest evenly. Where the oracle does not beat uniform weights, no gate
of this kind can.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from pemoe.common.runs import write_metrics
from pemoe.retrieval.embedding import embed_split
from pemoe.retrieval.evaluation import score_split
from pemoe.trainers.batches.pairs import load_rows
from pemoe.trainers.recipes import load_recipe
from pemoe.trainers.stages import WEIGHTS
from pemoe.trainers.starting import build_model

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the weight on the true platform's expert; 0 is uniform


@torch.no_grad()
def measure_seed(directory: Path, recipe_name: str, seed: int) -> dict:
    """Recall and Score of one seed's experts under every weighting, and how often the gate names the platform."""
    recipe = load_recipe(recipe_name)
    recipe = replace(recipe, seed=seed, data=replace(recipe.data, options={**recipe.data.options, "seed": seed}))
    model, processor = build_model(recipe)
    model.load_state_dict(load_file(directory / f"seed{seed}" / "experts_gated" / "gate" / WEIGHTS), strict=False)
    rows = load_rows(replace(recipe.data, options={**recipe.data.options, "train_places": 1}))["test"]
    split = embed_split(model.eval(), processor, rows)
    texts = []
    for start in range(0, len(split.texts), 64):
        inputs = processor(text=split.texts[start : start + 64])
        texts.append(model.get_text_features(**inputs).text_embeds)
    text_embeds = torch.cat(texts).numpy()  # (Q, E, D)
    truth = np.eye(model.config.num_experts)[split.query_platform]  # (Q, E)
    weightings = {f"oracle {share:.1f}": share * truth + (1 - share) / truth.shape[1] for share in SHARES}
    results = {"gate": _figures(split)}
    for name, weights in weightings.items():
        fused = (weights[:, :, None] * text_embeds).reshape(len(text_embeds), -1).astype(np.float32)
        results[name] = _figures(replace(split, query=fused))
    named = float((split.gate_weights.argmax(1) == split.query_platform).mean())
    return {"weightings": results, "gate_names_the_platform": named}


def _figures(split) -> dict:
    scored = score_split(split, n_resamples=0)
    return {name: scored[name] for name in ("recall_at_1", "recall_at_10", "score")}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="output of benchmarks/campus_table1.py")
    options = parser.parse_args()
    started_s = time.monotonic()
    path = options.directory / "recipe.json"
    if not path.is_file():
        print(f"gate_headroom: {path}: not found; run benchmarks/campus_table1.py first", file=sys.stderr)
        return 2
    run = json.loads(path.read_text(encoding="utf-8"))
    seeds = {str(seed): measure_seed(options.directory, run["recipe"], seed) for seed in run["seeds"]}
    first = next(iter(seeds.values()))["weightings"]
    means = {
        name: {
            figure: float(np.mean([s["weightings"][name][figure] for s in seeds.values()])) for figure in first[name]
        }
        for name in first
    }
    named = float(np.mean([s["gate_names_the_platform"] for s in seeds.values()]))
    output = options.directory / "gate_headroom"
    output.mkdir(exist_ok=True)
    results = {"means": means, "gate_names_the_platform": named, "seeds": seeds}
    write_metrics(output, "benchmarks/gate_headroom.py", None, started_s, results)
    print(
        f"mean of seeds {', '.join(seeds)}, percent; the gate names the platform in {100 * named:.1f} of 100 queries"
    )
    for name, figures in means.items():
        print(f"{name:12} " + "  ".join(f"{figure} {100 * value:5.1f}" for figure, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
