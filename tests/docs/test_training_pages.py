"""Guards: the commands and options of the recipes page exist, it names every stage and packaged recipe, and the Python
of the Trainer's page runs as it stands and trains every stage."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from doc_blocks import ROOT, read_blocks

from pemoe import PeMoEModel, cli
from pemoe.trainers.arguments import STAGES
from pemoe.trainers.recipes import load_recipe

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
(COMMANDS,) = read_blocks("docs/recipes.md", "bash")
(PYTHON,) = read_blocks("docs/training.md", "python")


@pytest.mark.parametrize("line", COMMANDS.splitlines())
def test_commands_and_options_exist(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    words = line.split()
    words = words[words.index("pemoe") :]  # after torchrun's own options
    monkeypatch.setattr(sys, "argv", ["pemoe", words[1], "--help"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code in (0, None)
    said = capsys.readouterr().out
    assert all(word in said for word in words if word.startswith("--"))


def test_stages_and_recipes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = PAGE.partition("\n## Stages\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", stages, re.MULTILINE)
    assert [name for name in rows if name != "mine"] == list(STAGES)
    packaged = {path.stem for path in (ROOT / "trainers" / "recipes").glob("*.yaml")}
    named = re.search(r"takes a name \((.+?)\)", PAGE).group(1)
    assert set(re.findall(r"`(\w+)`", named)) == packaged
    assert all(load_recipe(name).stages for name in packaged)


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left: dict = {}
    exec(compile(PYTHON, "docs/training.md", "exec"), left)
    assert {"eval_recall_at_1", "eval_chance_recall_at_1", "eval_drone_recall_at_1"} <= set(left["figures"])
    assert left["negatives"].shape == (len(left["rows"]["train"]), 10) and (left["negatives"] >= 0).any()
    again = PeMoEModel.from_pretrained("runs/model").state_dict()
    state = left["model"].state_dict()
    assert all(np.array_equal(tensor.cpu().numpy(), again[name].numpy()) for name, tensor in state.items())
