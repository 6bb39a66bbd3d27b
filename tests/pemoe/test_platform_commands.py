"""Guards: the commands that take a model take a LoRA platform's folder too, as the model that loads from there; one
whose base is gone is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import assert_refused, run
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval.checkpoints import load_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_tiny_model().save_pretrained(tmp_path / "base")
    build_processor().save_pretrained(tmp_path / "base")
    model = PeMoEModel.from_pretrained(tmp_path / "base")
    model.add_platform("infrared", "drone", lora_rank=2)
    model.save_platform("infrared", tmp_path / "infrared")
    return tmp_path / "infrared"


def test_info_counts_the_platform_as_the_saved_model_holds_it(folder: Path, monkeypatch, capsys) -> None:
    assert run(monkeypatch, "info", "--model", str(folder), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    model = PeMoEModel.from_pretrained(folder)
    model.merge_platform("infrared")
    assert told["checkpoints"]["full"]["parameters"] == sum(one.numel() for one in model.parameters())


def test_evaluate_reads_model_and_processor_from_the_folder(folder: Path) -> None:
    model, processor = load_checkpoint(str(folder))
    assert model.lora_platforms == ["infrared"]
    assert model.encode_text(["red roof"], processor).shape == (1, 4 * model.config.embed_dim)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--onnx", "--torch-export"])
def test_export_writes_the_platform_too(folder: Path, tmp_path: Path, monkeypatch, option: str) -> None:
    assert run(monkeypatch, "export", str(folder), option, "--output", str(tmp_path / "out")) == 0
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["platforms"][-1] == "infrared"
    assert max(about["measured"]["parity"][side] for side in ("text", "image")) <= 1e-5


@pytest.mark.parametrize("command", [["info", "--model"], ["evaluate"], ["export", "--onnx"]])
def test_a_platform_without_its_base_is_refused(folder: Path, monkeypatch, capsys, command: list[str]) -> None:
    shutil.rmtree(folder.parent / "base")
    options = ["--data", "campus"] if command == ["evaluate"] else []
    assert_refused(monkeypatch, capsys, [*command, str(folder), *options], "base")
