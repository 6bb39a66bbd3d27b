"""Guards that no command scores other data than the model's own or the named one, and that figures say their data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_data import build_split
from tiny_models import build_tiny_model

from pemoe.common.errors import InputError
from pemoe.trainers import TrainingError
from pemoe.trainers.batches.pairs import DataRecipe
from pemoe.trainers.checkpoint_io import data_of, describe_data, recipe_record
from pemoe.trainers.recipes import Recipe, StageRecipe


def test_data_that_nobody_named_is_refused_in_one_line(tmp_path: Path) -> None:
    build_tiny_model().config.save_pretrained(tmp_path / "model")
    checkpoint = str(tmp_path / "model")
    with pytest.raises(TrainingError, match="--data campus") as error:
        data_of(checkpoint)
    assert "\n" not in str(error.value)
    assert data_of(checkpoint, "campus").source == "campus"
    with pytest.raises(InputError, match="nowhere"):
        data_of(str(tmp_path / "nowhere"))


def test_a_data_directory_that_is_gone_is_no_data_set_of_the_hub(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "data" / "built").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(data=DataRecipe(source="parquet", root="data/built"), contrastive=StageRecipe(steps=1))
    record = recipe_record(recipe)
    assert record["data"]["root"] == str(tmp_path / "data" / "built")
    monkeypatch.chdir("/")
    for root in (record["data"]["root"], "data/built"):
        (tmp_path / "recipe.json").write_text(json.dumps({"data": {**record["data"], "root": root}}))
        if Path(root).is_absolute():
            assert data_of(str(tmp_path / "model")).root == root
        else:
            with pytest.raises(TrainingError, match="data/built, which is no directory here"):
                data_of(str(tmp_path / "model"))


def test_fingerprint_is_of_the_rows() -> None:
    rows = build_split(split="test")
    found = describe_data(DataRecipe(), "test", rows)
    assert found == describe_data(DataRecipe(), "test", build_split(split="test"))
    assert (found["source"], found["root"], found["split"], found["rows"]) == ("campus", None, "test", len(rows))
    assert found["fingerprint"] != describe_data(DataRecipe(), "test", rows.select(range(5)))["fingerprint"]
