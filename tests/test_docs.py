"""Guards: what the documents say is so: docstring examples run, README stays short, its commands, files and recipes
exist, and the version is the same everywhere."""

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
FOLDERS = ("common", "modeling_pemoe", "datasets_scripts", "trainers", "retrieval", "export", "hub_cards")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
SET_UP = re.compile(r"^<!-- (\w+) -->\n```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
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


def test_set_up_is_two_lines_that_pip_lets_through_everywhere() -> None:
    lines = dict(SET_UP.findall(README))
    assert set(lines) == {"quickstart", "tests"}
    for name, line in lines.items():
        assert line.count("\n") == 1 and line.startswith("python3 -m venv .venv && .venv/bin/pip install -e ")
        assert f"line_after {name}" in (ROOT / ".ci" / "run").read_text()
    assert lines["quickstart"].endswith("&& .venv/bin/pemoe quickstart\n")
    assert lines["tests"].endswith('-e ".[test]" && .venv/bin/pytest\n')


@pytest.mark.parametrize(("name", "page"), [("README.md", README), *PAGES.items()])
def test_files_and_links_of_a_page_exist(name: str, page: str) -> None:
    folders = "|".join([*FOLDERS, "pemoe", "benchmarks", "docs", "tests"])
    named = [(ROOT, path) for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", page)]
    linked = [((ROOT / "docs" / name).parent, path) for path in re.findall(r"\]\(([\w./-]+\.md)\)", page)]
    if name == "README.md":
        linked = [(ROOT, path) for _, path in linked]
    assert [path for place, path in named + linked if not (place / path).exists()] == []


@pytest.mark.parametrize("line", COMMAND_LINE.findall(README))
def test_readme_commands_exist(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    words = line.split("#")[0].split()
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        return
    words = words[words.index("pemoe") :]  # after torchrun's own options
    command = words[1 : 3 if words[1] in ("data", "publish", "index") else 2]
    monkeypatch.setattr(sys, "argv", ["pemoe", *command, "--help"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code in (0, None)
    said = capsys.readouterr().out
    for option in (word for word in words[2:] if word.startswith("--")):
        assert option in said, option


def test_the_version_is_the_same_everywhere() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f'version="{pemoe.__version__}"' in setup
    assert re.search(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE).group(1) == pemoe.__version__


def test_no_page_names_a_path_of_a_machine() -> None:
    pages = [README, CHANGELOG, *PAGES.values()]
    assert not any(re.search(r"(/work/|/opt/|/home/|/root/|/tmp/)", page) for page in pages)


def test_every_defect_and_filter_is_in_the_guide() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (error|warning|note) \| (yes)? ?\|", PAGES["data.md"], re.MULTILINE)
    assert rows == [(name, one.severity, "yes" if name in filter_names() else "") for name, one in DEFECTS.items()]
