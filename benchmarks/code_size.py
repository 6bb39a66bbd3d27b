"""How much code there is: files, lines, and the lengths of functions per folder, now or at a git revision.

Example: python benchmarks/code_size.py HEAD~1
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("tests", "benchmarks", "build", "dist", "runs")  # first folders; hidden ones too


class Size(NamedTuple):
    """One row of the table; the last three are lines of a function, p90 being what nine of ten do not exceed."""

    folder: str
    files: int
    lines: int
    longest_file: int
    functions: int
    median: float
    p90: float
    longest: int


def read_tree(root: Path, revision: str | None = None) -> Iterator[tuple[str, str]]:
    """(path from the root with `/`, text) of every Python file of the source, sorted by path.

    Args:
        root: of a git repository, or any folder where `revision` is None.
        revision: commit, branch or tag; None for the files as they lie.

    Raises:
        subprocess.CalledProcessError: git does not know the revision.
    """
    if revision is None:
        tops = [top for top in root.iterdir() if _is_source(top.name)]  # before a virtual environment is walked
        paths = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*.py"))]
        files = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in paths if path.suffix == ".py"}
    else:
        packed = subprocess.run(["git", "-C", str(root), "archive", revision], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            members = [member for member in archive if member.isfile() and member.name.endswith(".py")]
            files = {member.name: archive.extractfile(member).read().decode("utf-8") for member in members}
    yield from sorted((path, text) for path, text in files.items() if _is_source(path.partition("/")[0]))


def _is_source(top: str) -> bool:
    return top not in LEFT_OUT and not top.startswith(".")


def function_lengths(text: str) -> list[int]:
    """Lines of every function and method, from `def` to its last line; inner functions count by themselves too.

    Example:
        >>> function_lengths("def f():\\n    return 1\\n")
        [2]
    """
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.end_lineno - node.lineno + 1 for node in ast.walk(ast.parse(text)) if isinstance(node, functions)]


def count(files: Iterator[tuple[str, str]]) -> list[Size]:
    """One row per folder, sorted, and one for all of `(path, text)`."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path, text in files:
        folders[path.rpartition("/")[0] or "."].append(text)
    rows = [_measure(folder, texts) for folder, texts in sorted(folders.items())]
    return [*rows, _measure("all", [text for texts in folders.values() for text in texts])]


def _measure(folder: str, texts: list[str]) -> Size:
    lines = [len(text.splitlines()) for text in texts]
    lengths = [length for text in texts for length in function_lengths(text)]
    measured = lengths or [0]
    p90 = quantiles(measured, n=10, method="inclusive")[-1] if len(measured) > 1 else measured[0]
    return Size(
        folder, len(texts), sum(lines), max(lines, default=0), len(lengths), median(measured), p90, max(measured)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", help="commit, branch or tag; default: the files as they lie")
    revision = parser.parse_args().revision
    try:
        rows = count(read_tree(ROOT, revision))
    except subprocess.CalledProcessError as error:
        sys.exit(f"code_size: {error.stderr.decode().strip()}")
    width = max(len(row.folder) for row in rows)
    print(f"{'folder':<{width}}", *Size._fields[1:])
    for row in rows:
        print(
            f"{row.folder:<{width}}", *(f"{value:>{len(name)}.0f}" for name, value in list(row._asdict().items())[1:])
        )


if __name__ == "__main__":
    main()
