"""Guards: a recipe trains from the command to a checkpoint that gives its reported figures when loaded, bf16 too;
bad recipes and directories are refused before anything is lost; torchrun writes the same run."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image
from small_runs import write_recipe

from pemoe import cli
from pemoe.common.runs import RunError
from pemoe.datasets_scripts import DataError
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.evaluation import evaluate_split
from pemoe.trainers.batches.pairs import load_rows
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.recipes import Recipe, read_config
from pemoe.trainers.starting import build_model
from pemoe.trainers.train import train_into


class Run(NamedTuple):
    """A trained run of the small recipe; tests read it and leave it as it is."""

    recipe: Recipe
    directory: Path
    metrics: dict
    plans: list[dict]


def train(folder: Path, **changes: object) -> Run:
    recipe = read_config(write_recipe(folder / "recipe.yaml", **changes), seed=5)
    plans: list[dict] = []
    metrics = train_into(folder / "run", recipe, "test", on_plan=plans.extend)
    return Run(recipe, folder / "run", metrics, plans)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_reported_figures_are_those_of_the_saved_checkpoint(tmp_path: Path, trained: Run, precision: str) -> None:
    run = trained if precision == "float32" else train(tmp_path, precision=precision)
    assert {line["stage"] for line in run.plans} == {"contrastive", "hard_negative", "gate"}
    assert json.loads((run.directory / "metrics.json").read_text()) == run.metrics
    model = PeMoEModel.from_pretrained(run.directory / "model").eval()
    assert str(model.dtype) == f"torch.{precision}"
    processor = PeMoEProcessor.from_pretrained(run.directory / "model")
    again = evaluate_split(model, processor, load_rows(run.recipe.data)["test"])
    assert again == run.metrics["results"]["test"]


def test_bf16_starts_from_unrounded_experts(tmp_path: Path) -> None:
    recipe = read_config(write_recipe(tmp_path / "recipe.yaml", precision="bfloat16"))
    model, _ = build_model(recipe)
    assert str(model.dtype_of_trunk) == "torch.bfloat16" and str(model.dtype_of_experts) == "torch.float32"


def test_evaluate_and_mine_read_the_data_of_their_run(tmp_path: Path, trained: Run, monkeypatch, capsys) -> None:
    for command, extra in (("evaluate", []), ("mine", ["--k", "2"])):
        arguments = ["pemoe", command, str(trained.directory / "model"), "--output", str(tmp_path / command), "--json"]
        monkeypatch.setattr(sys, "argv", arguments + extra)
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert done.value.code == 0
        said = json.loads(capsys.readouterr().out)
        if command == "evaluate":
            assert said["results"] == trained.metrics["results"]["test"]
            assert said["model"] == trained.metrics["model"] and said["model"]["weights_sha256"]
        else:
            assert said["results"]["rows"] == 18 and (tmp_path / "mine" / "negatives.parquet").is_file()


def test_resume_refuses_another_recipe_and_overwrite_keeps_the_old_run_until_data_is_read(
    tmp_path: Path, trained: Run
) -> None:
    with pytest.raises(RunError, match="not empty"):
        train_into(trained.directory, trained.recipe, "test")
    with pytest.raises(TrainingError, match="another seed"):
        train_into(trained.directory, dataclasses.replace(trained.recipe, seed=1), "test", resume=True)
    (tmp_path / "bare").mkdir()
    broken = read_config(write_recipe(tmp_path / "recipe.yaml"), data=str(tmp_path / "bare"))
    with pytest.raises(ValueError, match="bare holds no images"):
        train_into(trained.directory, broken, "test", overwrite=True)
    assert json.loads((trained.directory / "metrics.json").read_text()) == trained.metrics


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": {"options": {"image_sizee": 1}}}, "image_sizee"),
        ({"mine": {"k": 0}}, r"mine\.k"),
        ({"hard_negative": {"margin": 5.0}}, "margin"),
        ({"contrastive": {"steps": 1, "learning_rate": -1.0}}, "learning_rate"),
        ({"contrastive": {"steps": 1, "lr_scheduler_type": "cosin"}}, "lr_scheduler_type"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_values_are_refused_before_the_first_stage(tmp_path: Path, change: dict, word: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"contrastive": {"steps": 1}, **change}))
    with pytest.raises(TrainingError, match=word):
        read_config(str(path))


def test_wrong_types_in_model_options_are_one_line(tmp_path: Path) -> None:
    recipe = read_config(write_recipe(tmp_path / "recipe.yaml"))
    model = dataclasses.replace(recipe.model, options={**recipe.model.options, "gate_hidden_dim": "64"})
    with pytest.raises(TrainingError, match="gate_hidden_dim") as error:
        build_model(dataclasses.replace(recipe, model=model))
    assert "\n" not in str(error.value)


def test_unknown_data_option_is_named(tmp_path: Path) -> None:
    recipe = read_config(write_recipe(tmp_path / "recipe.yaml"))
    data = dataclasses.replace(recipe.data, options={"train_place": 3})
    with pytest.raises(ValueError, match="train_place"):
        load_rows(data)


@pytest.mark.slow
def test_torchrun_writes_one_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pemoe.trainers.train"]
    arguments = ["--config", recipe, "--output", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["results"]["stages"]["contrastive"]["pairs_seen"] == 12
    assert re.search(r"^contrastive +satellite +4 +1 ", done.stderr, re.MULTILINE)
    assert metrics["command"].startswith("pemoe train --config ")


def write_photos(root: Path, captions: bool) -> Path:
    """Six photos of three places seen by a drone and from the street, with a caption each or none."""
    lines = ["file_name,caption"]
    for place in range(3):
        for name in ("drone_1.jpg", "street.jpg"):
            path = root / f"place{place}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (80 * place, 20, 20)).save(path)
            lines.append(f"{path.relative_to(root).as_posix()},a hall of colour {place} beside a pond")
    if captions:
        (root / "captions.csv").write_text("\n".join(lines))
    return root


def test_photos_without_a_test_split_are_learnt_and_not_measured(tmp_path: Path, monkeypatch, capsys) -> None:
    photos = write_photos(tmp_path / "photos", captions=True)
    recipe = read_config(write_recipe(tmp_path / "recipe.yaml"), data=str(photos))
    metrics = train_into(tmp_path / "run", recipe, "test")
    assert metrics["results"]["test"] is None and (tmp_path / "run" / "metrics.json").is_file()
    for arguments in (["evaluate", str(tmp_path / "run" / "model")], ["quickstart"]):
        output = tmp_path / arguments[0]
        monkeypatch.setattr(sys, "argv", ["pemoe", *arguments, "--data", str(photos), "--output", str(output)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert done.value.code == 2 and "no test picture with a caption" in capsys.readouterr().err
        assert not output.exists()


def test_a_gallery_without_words_is_not_learnt(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", captions=False)
    recipe = read_config(write_recipe(tmp_path / "recipe.yaml"), data=str(photos))
    with pytest.raises(DataError, match="no training picture with a caption"):
        train_into(tmp_path / "run", recipe, "test")
    assert not (tmp_path / "run").exists()
