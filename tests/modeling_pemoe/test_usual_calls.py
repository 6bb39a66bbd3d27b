"""Guards: docs/model.md lists every usual call that a test covers and no other, and what its code blocks show runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from doc_blocks import ROOT, read_blocks
from PIL import Image
from tiny_data import build_processor
from tiny_models import build_tiny_model

ROW = re.compile(r"^\| .+ \| (works|refused)\b.* \| `(test_\w+)` \|$", re.MULTILINE)
FILES = sorted(path for path in Path(__file__).parent.glob("test_usual_*.py") if path != Path(__file__))


def read_rows() -> list[tuple[str, str]]:
    """Outcome and test of each row of the page's table."""
    return ROW.findall((ROOT / "docs" / "model.md").read_text(encoding="utf-8"))


def read_tests() -> list[str]:
    nodes = [node for path in FILES for node in ast.parse(path.read_text(encoding="utf-8")).body]
    return [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def test_every_row_is_a_test_and_every_test_a_row() -> None:
    rows = [test for _, test in read_rows()]
    assert len(rows) > 30
    assert sorted(rows) == sorted(read_tests())


def test_every_line_of_the_table_is_read() -> None:
    page = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    assert len(re.findall(r"\| `test_\w+` \|$", page, re.MULTILINE)) == len(read_rows())


def test_refusals_are_named_so() -> None:
    for outcome, test in read_rows():
        assert (outcome == "refused") == test.endswith(("refused", "needs_its_package")), test


def test_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_tiny_model().save_pretrained(tmp_path / "you" / "pemoe")
    build_processor().save_pretrained(tmp_path / "you" / "pemoe")
    for name in ("photo.png", "other.png"):
        Image.new("RGB", (50, 40), "red").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in read_blocks("docs/model.md", "python"):
        exec(block, names)
    assert names["scores"].shape == (1, 2) and names["output"].loss.ndim == 0
