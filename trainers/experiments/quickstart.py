"""The quickstart: Table 1 in minutes, a checkpoint that a stranger's process can load, three queries answered."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np

from pemoe.common.files import write_json
from pemoe.datasets_scripts import PLATFORMS
from pemoe.modeling_pemoe import PeMoEProcessor
from pemoe.retrieval import search
from pemoe.trainers.checkpoint_io import recipe_record
from pemoe.trainers.experiments.fresh_process import run_without_package
from pemoe.trainers.experiments.located import index_and_locate
from pemoe.trainers.experiments.report import write_report
from pemoe.trainers.experiments.table1 import Row, Table1
from pemoe.trainers.recipes import Recipe, read_config
from pemoe.trainers.starting import build_model

HITS_SHOWN = 5
HEADER = ["row", "pairs seen", "R@1", "R@5", "R@10", "Score", *(f"R@1 {p}" for p in PLATFORMS), "seconds"]

# Runs where `pemoe` cannot be imported: everything comes out of the checkpoint directory.
EMBED_AFRESH = """
import json
import numpy as np
from PIL import Image
from transformers import AutoModel, AutoProcessor
checkpoint, request, answer = sys.argv[1:4]
model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
asked = json.load(open(request, encoding="utf-8"))
def embed(paths):
    return model.encode_images([Image.open(path) for path in paths], processor, batch_size=64)
paths = asked["images"]  # 64 at a time: a process may not open thousands of files
gallery = np.concatenate([embed(paths[start : start + 64]) for start in range(0, len(paths), 64)])
query = model.encode_text(asked["texts"], processor)
with torch.no_grad():
    weights = model.get_text_features(**processor(text=asked["texts"])).gate_weights
np.savez(answer, query=query, gallery=gallery, gate_weights=weights.numpy())
"""


def quickstart_recipe(data: str | None = None, seed: int = 0) -> Recipe:
    """The packaged quickstart on the rendered campus of that seed, or on the data set a user names."""
    return read_config("quickstart", data, seed)


def run_quickstart(
    output: Path,
    recipe: Recipe,
    splits: datasets.DatasetDict,
    show_progress: bool = False,
    on_row: Callable[[Row], None] | None = None,
) -> dict:
    """Train Table 1's four rows, save, reload in a fresh process, answer three queries, index the test pictures,
    locate a query among them, write the report.

    Args:
        output: a prepared directory; gets `model/`, `index/`, `rows/`, `recipe.json`, `report.html`.
        recipe, splits: from `quickstart_recipe` and `load_rows`.
        on_row: called with every finished row.

    Returns:
        The `results` of `metrics.json`: `{"rows": [...], "examples": [...], "reload_max_difference": ...,
        "calibration": ..., "located": ...}`; see `index_and_locate` for the last two.

    Raises:
        TrainingError: a recipe the data does not fit; RuntimeError: the checkpoint does not load in a fresh process.
    """
    write_json(output / "recipe.json", recipe_record(recipe))
    model, processor = build_model(recipe)
    table = Table1(model, processor, splits, recipe, output / "rows", show_progress, on_row)
    rows = table.run()
    gated = rows[-1]
    gated.model.save_pretrained(output / "model")
    processor.save_pretrained(output / "model")
    examples, difference = _answer_examples(output / "model", gated, processor, splits["test"])
    located = index_and_locate(output, recipe, gated.model, processor, table, [one["query"] for one in examples])
    data = recipe.data
    title = "PE-MoE quickstart: " + ("the rendered campus" if data.root is None else Path(data.root).name)
    write_report(output / "report.html", title, format_table(rows), examples, _notes(gated, splits))
    return {
        "rows": [row.as_json() for row in rows],
        "reload_max_difference": difference,
        "examples": [{**example, "hits": [_as_json(hit) for hit in example["hits"]]} for example in examples],
        **located,
    }


def _answer_examples(
    checkpoint: Path, row: Row, processor: PeMoEProcessor, rows: datasets.Dataset
) -> tuple[list[dict], float]:
    """Rank one query per platform of the test split `rows` with the checkpoint as loaded by a fresh process.

    Returns:
        The examples, and the largest difference between the fresh process's vectors, of queries and of the whole
        gallery, and those that were evaluated for the trained row.

    Raises:
        RuntimeError: the fresh process failed, or its vectors differ by more than 1e-4.
    """
    first: dict[int, int] = {}
    for number, one in enumerate(rows.select_columns(["platform", "captions"])):
        if one["captions"] and one["platform"] is not None:
            first.setdefault(one["platform"], number)
    asked = [rows[first[platform]] for platform in sorted(first)]
    texts = [query["captions"][-1] for query in asked]
    fresh = _embed_afresh(checkpoint, texts, rows)
    own = {"query": row.model.encode_text(texts, processor), "gallery": row.gallery}
    difference = max(float(np.abs(fresh[side] - own[side]).max()) for side in own)
    if not difference <= 1e-4:
        raise RuntimeError(f"{checkpoint}: reloaded in a fresh process, its vectors differ by {difference:.2g}")
    scores, found = search(fresh["query"], fresh["gallery"], min(HITS_SHOWN, len(rows)))
    names, names_of = row.model.config.platforms, rows.features["platform"].names
    examples = [
        {
            "query": texts[k],
            "platform": names_of[query["platform"]],
            "place_id": query["place_id"],
            "gate_weights": dict(zip(names, map(float, fresh["gate_weights"][k]), strict=True)),
            "hits": [
                _hit(rows[int(n)], s, query["place_id"], names_of) for n, s in zip(found[k], scores[k], strict=True)
            ],
        }
        for k, query in enumerate(asked)
    ]
    return examples, difference


def _embed_afresh(checkpoint: Path, texts: list[str], rows: datasets.Dataset) -> dict[str, np.ndarray]:
    """Query and gallery vectors and gate weights from a process that cannot import `pemoe`."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = []
        for number, row in enumerate(rows.select_columns(["image"])):
            paths.append(str(Path(scratch) / f"{number}.png"))
            row["image"].convert("RGB").save(paths[-1])
        request, answer = Path(scratch) / "request.json", Path(scratch) / "answer.npz"
        write_json(request, {"texts": texts, "images": paths})
        run_without_package(EMBED_AFRESH, str(checkpoint.resolve()), str(request), str(answer))
        with np.load(answer) as arrays:
            return dict(arrays)


def format_table(rows: list[Row]) -> list[list[str]]:
    """Table 1 as cells, percent, the last row being chance."""
    body = []
    for row in rows:
        figures, platforms = row.figures, row.figures["per_platform"]
        cells = [f"{100 * figures[name]:.1f}" for name in ("recall_at_1", "recall_at_5", "recall_at_10", "score")]
        cells += [f"{100 * platforms[p]['recall_at_1']:.1f}" if p in platforms else "" for p in PLATFORMS]
        body.append([row.name, str(row.pairs_seen), *cells, f"{row.seconds:.0f}"])
    figures = rows[-1].figures
    chance = [figures[f"chance_recall_at_{k}"] for k in (1, 5, 10)]
    chance.append((chance[0] + chance[2]) / 2)
    platforms = figures["per_platform"]
    chance += [platforms[p]["chance_recall_at_1"] if p in platforms else float("nan") for p in PLATFORMS]
    body.append(["chance", "", *(f"{100 * value:.1f}" for value in chance), ""])
    return [HEADER, *body]


def _hit(row: dict, score: float, place_id: str, platforms: list[str]) -> dict:
    """The answer that a row is, right where it is of the query's place."""
    platform = "unknown" if row["platform"] is None else platforms[row["platform"]]
    answer = {"platform": platform, "score": float(score), "is_right": row["place_id"] == place_id}
    return {name: row[name] for name in ("image", "place_id", "latitude_deg", "longitude_deg")} | answer


def _as_json(hit: dict) -> dict:
    return {name: hit[name] for name in ("place_id", "platform", "score", "is_right")}


def _notes(gated: Row, splits: datasets.DatasetDict) -> list[str]:
    return [
        f"{gated.figures['n_queries']} test queries search one gallery of {splits['test'].num_rows} satellite, drone "
        f"and street pictures; a hit is any picture of the query's place. Trained on {splits['train'].num_rows} "
        "pictures of other places. Figures are percent; chance is a random order of the gallery.",
        "One seed on a small set: the rows' order may change from run to run.",
    ]
