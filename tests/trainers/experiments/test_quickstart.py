"""Guards: the whole path of the quickstart, small: four rows at equal pairs, a checkpoint that a stranger's process
loads to the same vectors, three answered queries, an index with one of them located, and a report; the same on a
directory in GeoText-1652's layout."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from geotext_layout import write_geotext_layout

from pemoe.datasets_scripts import PLATFORMS, load_source
from pemoe.retrieval import evaluation, first_hit_ranks
from pemoe.retrieval.locating import Locator
from pemoe.trainers.batches.pairs import load_rows
from pemoe.trainers.experiments.quickstart import format_table, quickstart_recipe, run_quickstart
from pemoe.trainers.experiments.table1 import ROWS, Row, Table1
from pemoe.trainers.recipes import GateRecipe, HardNegativeRecipe, Recipe, StageRecipe, load_recipe
from pemoe.trainers.starting import build_model

KEYS = {"name", "pairs_seen", "n_queries", "recall_at_1", "recall_at_5", "recall_at_10", "score", "per_platform"}


def small_recipe() -> Recipe:
    """The packaged quickstart with a handful of places and steps."""
    recipe = load_recipe("quickstart")
    return replace(
        recipe,
        data=replace(recipe.data, options={"train_places": 12, "test_places": 4, "drone_views": 1, "ground_views": 1}),
        global_batch_size=4,
        unified=StageRecipe(steps=2, learning_rate=1e-3),
        contrastive=StageRecipe(steps=3, learning_rate=1e-3),
        hard_negative=HardNegativeRecipe(steps=3, learning_rate=1e-3),
        gate=GateRecipe(steps=3, learning_rate=1e-3),
    )


def assert_rows_are_complete(results: dict, rows: list[Row]) -> None:
    assert [row["name"] for row in results["rows"]] == list(ROWS)
    for row in results["rows"]:
        assert set(row) >= KEYS | {f"chance_recall_at_{k}" for k in (1, 5, 10)}
        assert row["n_queries"] == sum(figures["n_queries"] for figures in row["per_platform"].values())
    assert len(format_table(rows)) == 2 + len(ROWS)


def assert_it_ends_on_the_map(output: Path, results: dict) -> None:
    """The index holds the test pictures with the model's calibration, and opens again to the answer that was shown."""
    locator = Locator.open(str(output / "index"))
    assert locator.index.calibration == json.loads((output / "model" / "calibration.json").read_text())
    assert results["calibration"]["places"] == 12 and results["located"]["pictures_searched"] == 12
    shown = results["located"]["places"][0]
    again = locator.locate(results["located"]["texts"]).as_json()
    assert again["places"][0]["place_id"] == shown["place_id"]
    assert again["places"][0]["probability"] == pytest.approx(shown["probability"], abs=1e-3)
    assert 40 < shown["latitude_deg"] < 41 and -89 < shown["longitude_deg"] < -88
    assert results["located"]["texts"][0] in [example["query"] for example in results["examples"]]


def test_whole_path_on_the_campus(tmp_path: Path) -> None:
    rows: list[Row] = []
    recipe = small_recipe()
    results = run_quickstart(tmp_path, recipe, load_rows(recipe.data), on_row=rows.append)
    assert_rows_are_complete(results, rows)
    assert {row["pairs_seen"] for row in results["rows"]} == {recipe.pairs_seen}
    assert results["reload_max_difference"] < 1e-5
    assert [example["platform"] for example in results["examples"]] == list(PLATFORMS)
    for example in results["examples"]:
        assert sum(example["gate_weights"].values()) == pytest.approx(1.0, abs=1e-5)
        scores = [hit["score"] for hit in example["hits"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert_it_ends_on_the_map(tmp_path, results)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 15 and all(example["query"] in page for example in results["examples"])
    assert "http" not in page  # opens without a network
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    assert str(tmp_path) not in (tmp_path / "model" / "tokenizer_config.json").read_text()


@pytest.mark.slow
def test_table_1_of_a_recipe_that_augments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cached then, the trunks run in every step; and a row ranks once in each direction."""
    calls = []
    monkeypatch.setattr(evaluation, "first_hit_ranks", lambda *sides: calls.append(1) or first_hit_ranks(*sides))
    recipe = replace(small_recipe(), augment="sanitized", cache_image_states=False)
    model, processor = build_model(recipe)
    rows = Table1(model, processor, load_rows(recipe.data), recipe, tmp_path).run()
    assert [row.name for row in rows] == list(ROWS) and {row.pairs_seen for row in rows} == {recipe.pairs_seen}
    assert len(calls) == 2 * len(rows)
    assert all(row.model.vision_trunk is model.vision_trunk for row in rows)
    assert all(row.model.text_trunk is model.text_trunk for row in rows)


@pytest.mark.slow
def test_whole_path_on_a_geotext_directory(tmp_path: Path) -> None:
    splits = load_source("campus", train_places=6, test_places=3, drone_views=1, ground_views=1)
    root = write_geotext_layout(splits, tmp_path / "geotext")
    rows: list[Row] = []
    (tmp_path / "run").mkdir()
    recipe = replace(small_recipe(), data=quickstart_recipe(str(root)).data)
    results = run_quickstart(tmp_path / "run", recipe, load_rows(recipe.data), on_row=rows.append)
    assert_rows_are_complete(results, rows)
    assert results["rows"][0]["n_queries"] == sum(len(captions) for captions in splits["test"]["captions"])


@pytest.mark.slow
def test_whole_path_on_real_tiles(tmp_path: Path) -> None:
    root = os.environ.get("PEMOE_REAL_CAMPUS")
    if not root:
        pytest.skip("PEMOE_REAL_CAMPUS does not name a directory of real tiles")
    rows: list[Row] = []
    recipe = replace(small_recipe(), data=quickstart_recipe(root).data, global_batch_size=24)
    results = run_quickstart(tmp_path, recipe, load_rows(recipe.data), on_row=rows.append)
    assert_rows_are_complete(results, rows)
    with open(Path(root) / "test_951_version.json", encoding="utf-8") as file:
        assert results["rows"][0]["n_queries"] == sum(len(record["caption"]) for record in json.load(file))
    seen = [row["pairs_seen"] for row in results["rows"]]  # 16 ground places make smaller batches
    assert max(seen) - min(seen) <= 24
