"""The Python files of this repository and their imports, for tests of its shape."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"common", "modeling_pemoe", "datasets_scripts", "retrieval", "export", "hub_cards", "trainers", "pemoe"}


class Source(NamedTuple):
    """One Python file: path from the root with `/`, and its text."""

    path: str
    text: str

    @property
    def folder(self) -> str:
        return self.path.partition("/")[0]

    @property
    def module(self) -> str:
        """Its import name."""
        name = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return name if self.folder == "pemoe" else f"pemoe.{name}"


class Import(NamedTuple):
    """One import statement, or one `import_module("...")` call (`dynamic`)."""

    line: int
    level: int  # leading dots
    module: str  # "" in `from . import x`
    names: tuple[str, ...]  # () in `import x`
    dynamic: bool


@cache
def read_sources() -> tuple[Source, ...]:
    places = [ROOT / folder for folder in sorted(FOLDERS | {"tests", "benchmarks"})]
    paths = [ROOT / "setup.py", *(path for place in places for path in sorted(place.rglob("*.py")))]
    return tuple(Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


@cache
def imports_of(source: Source) -> tuple[Import, ...]:
    return tuple(_read_imports(source))


def _read_imports(source: Source) -> Iterator[Import]:
    for node in ast.walk(ast.parse(source.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, 0, alias.name, (), dynamic=False)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield Import(node.lineno, node.level, node.module or "", names, dynamic=False)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(name, str):
                yield Import(node.lineno, 0, name, (), dynamic=True)


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def root_of(found: Import) -> str:
    return found.module.partition(".")[0] if found.level == 0 else ""


def faults_of(rule: Callable[[Source], list[str]]) -> list[str]:
    return [f"{source.path}: {fault}" for source in read_sources() for fault in rule(source)]


def read_packages(setup: str) -> dict[str, str]:
    """`PACKAGES` of setup.py: import name -> folder."""
    for node in ast.parse(setup).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PACKAGES":
            return ast.literal_eval(node.value)
    raise AssertionError("setup.py has no PACKAGES dict")


def is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()
