"""Guards: what the documents say is so: docstring examples run, README stays short, its commands, files and recipes
exist, and the version is told once."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pemoe
from pemoe import cli
from pemoe.datasets_scripts.audit.defects import DEFECTS
from pemoe.datasets_scripts.filters.filters import filter_names

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("common", "modeling_pemoe", "datasets_scripts", "trainers", "retrieval", "hub_cards")
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA_GUIDE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
COMMAND_LINE = re.compile(r"^(pemoe .*|torchrun .*|python benchmarks/.*)$", re.MULTILINE)


def library_modules() -> list[str]:
    names = []
    for folder in FOLDERS:
        package = importlib.import_module(f"pemoe.{folder}")
        names += [info.name for info in pkgutil.walk_packages(package.__path__, f"pemoe.{folder}.")]
    return names


@pytest.mark.parametrize("name", library_modules())
def test_docstring_examples_run(name: str) -> None:
    results = doctest.testmod(
        importlib.import_module(name),
        extraglobs={"np": np, "torch": torch},
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert results.failed == 0


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name) for name in library_modules()]
    assert sum(len(test.examples) for module in modules for test in finder.find(module)) > 20


def test_readme_is_short_and_complete() -> None:
    assert len(README.splitlines()) < 250
    assert "@@" not in README
    for path in re.findall(
        r"`((?:datasets_scripts|modeling_pemoe|trainers|retrieval|hub_cards|benchmarks|docs)/[\w./-]*)`", README
    ):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("line", COMMAND_LINE.findall(README))
def test_readme_commands_exist(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    words = line.split("#")[0].split()
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        return
    command = ["train"] if words[0] == "torchrun" else words[1 : 3 if words[1] == "data" else 2]
    monkeypatch.setattr(sys, "argv", ["pemoe", *command, "--help"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code in (0, None)
    said = capsys.readouterr().out
    for option in (word for word in words[2:] if word.startswith("--") and "nproc" not in word):
        assert option in said, option


def test_version_is_told_once() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version="{pemoe.__version__}"' in setup
    assert re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE).group(1) == pemoe.__version__


def test_no_path_of_a_machine_is_told() -> None:
    told = [README, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")]
    told += [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    assert not any(re.search(r"(/work/|/opt/|/home/|/root/|/tmp/)", text) for text in told)


def test_every_defect_and_filter_is_told() -> None:
    told = re.findall(r"^\| `(\w+)` \| (error|warning|note) \| (yes)? ?\|", DATA_GUIDE, re.MULTILINE)
    assert told == [(name, one.severity, "yes" if name in filter_names() else "") for name, one in DEFECTS.items()]
