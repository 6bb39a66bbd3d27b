"""Guards that no command scores other data than the model's own or the named one, and that figures say their data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants
from local_hub import LocalHub
from tiny_data import build_split
from tiny_models import build_tiny_model

from pemoe.trainers import TrainingError
from pemoe.trainers.batches.pairs import DataRecipe
from pemoe.trainers.checkpoint_io import data_of, describe_data, describe_model, read_config_of, recipe_record
from pemoe.trainers.recipes import Recipe, StageRecipe


def test_data_that_nobody_named_is_refused_in_one_line(tmp_path: Path) -> None:
    build_tiny_model().config.save_pretrained(tmp_path / "model")
    checkpoint = str(tmp_path / "model")
    with pytest.raises(TrainingError, match="--data campus") as error:
        data_of(checkpoint)
    assert "\n" not in str(error.value)
    assert data_of(checkpoint, "campus").source == "campus"
    with pytest.raises(TrainingError, match="nowhere"):
        data_of(str(tmp_path / "nowhere"))


def test_a_path_that_is_no_directory_is_not_asked_for_on_the_hub(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "./model", "runs/train/model"):
        with pytest.raises(TrainingError, match="no such directory"):
            read_config_of(name)


def test_a_model_that_the_hub_does_not_show_is_one_sentence_that_names_the_hub(tmp_path: Path, monkeypatch) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        address = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
        settings = {"ENDPOINT": hub.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": address, "HF_HUB_OFFLINE": False}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        for token, status in ((hub.token, 404), ("hf_wrong", 401)):
            monkeypatch.setenv("HF_TOKEN", token)
            close_session()
            with pytest.raises(TrainingError, match=f"no model that {hub.endpoint} shows to you .{status}") as error:
                read_config_of("me/nothing")
            assert "\n" not in str(error.value) and token not in str(error.value)
    close_session()


def test_figures_say_which_weights_were_measured(tmp_path: Path) -> None:
    model = build_tiny_model()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    measured = describe_model(tmp_path / "whole")
    assert describe_model(str(tmp_path / "sharded")) == measured and len(measured["weights_sha256"]) == 64
    with torch.no_grad():
        model.logit_scale += 1
    model.save_pretrained(tmp_path / "whole")
    assert describe_model(tmp_path / "whole") != measured
    model.config._commit_hash = "c" * 40
    assert describe_model("me/pemoe", model.config) == {"repo": "me/pemoe", "commit": "c" * 40}


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
