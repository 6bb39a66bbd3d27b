"""Invariant: the size of the code is counted right, as it lies and at a revision, without tests and benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from code_size import Size, count, read_tree

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = "def one():\n    return 1\n\n\nclass A:\n    async def three(\n        self,\n    ): ...\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {"setup.py": "x = 1\n", "trainers/a.py": FUNCTIONS, "trainers/b.py": "\n" * 20, "trainers/inner/c.py": ""}
    left_out = ("tests/test_a.py", "benchmarks/a.py", "build/lib/a.py", ".venv/a.py")
    for path, text in {**files, **dict.fromkeys(left_out, FUNCTIONS)}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


EXPECTED = [
    Size(".", 1, 1, 1, 0, 0, 0, 0),
    Size("trainers", 2, 28, 20, 2, 2.5, 2.9, 3),
    Size("trainers/inner", 1, 0, 0, 0, 0, 0, 0),
    Size("all", 4, 29, 20, 2, 2.5, 2.9, 3),
]


def test_a_small_tree_is_counted(tree: Path) -> None:
    assert count(read_tree(tree)) == EXPECTED


def test_a_revision_is_counted_as_it_was(tree: Path) -> None:
    person = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], [*person, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tree), *words], check=True)
    (tree / "trainers" / "a.py").unlink()
    assert count(read_tree(tree, "HEAD")) == EXPECTED
    assert count(read_tree(tree))[-1].files == 3
    with pytest.raises(subprocess.CalledProcessError):
        list(read_tree(tree, "nope"))


def test_the_command_prints_a_table() -> None:
    printed = subprocess.run([sys.executable, "benchmarks/code_size.py"], cwd=ROOT, capture_output=True, check=True)
    lines = printed.stdout.decode().splitlines()
    assert lines[0].split() == list(Size._fields)
    assert lines[-1].startswith("all ") and any(line.startswith("modeling_pemoe ") for line in lines)
