"""Invariant: library code never prints, folders hold few files and files stay short, and setup.py names exactly the
packages that exist. Every rule is a function to faults, run on the whole source and on planted faults."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from source_tree import FOLDERS, ROOT, Source, faults_of, is_package, read_packages, read_sources

MAX_LINES = 450
MAX_TEST_LINES = 500
MAX_MODULES = 14
FLAT = {"modeling_pemoe": 17}  # travels inside checkpoints, which hold no folders


def prints(source: Source) -> list[str]:
    """Library code reports through return values, exceptions and logging."""
    if source.folder not in FOLDERS:
        return []
    calls = (node for node in ast.walk(ast.parse(source.text)) if isinstance(node, ast.Call))
    return [
        f"line {node.lineno}: print" for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def long_files(source: Source) -> list[str]:
    """A file holds one subject."""
    lines = len(source.text.splitlines())
    return [f"{lines} lines"] if lines > (MAX_LINES if source.folder in FOLDERS else MAX_TEST_LINES) else []


def full_folders(paths: Iterable[str]) -> list[str]:
    """Folders of more modules than a reader takes in at once."""
    counts = Counter(path.rpartition("/")[0] for path in paths if not path.endswith("__init__.py"))
    found = sorted(counts.items())
    return [f"{folder}: {count} modules" for folder, count in found if count > FLAT.get(folder, MAX_MODULES)]


def packaging_faults(packages: dict[str, str], root: Path) -> list[str]:
    """Every listed folder exists as a package under its own name, and every package folder is listed."""
    faults = [f"{folder}: listed, but not a package" for folder in packages.values() if not is_package(root / folder)]
    for name, folder in packages.items():
        expected = folder if folder == "pemoe" else "pemoe." + folder.replace("/", ".")
        faults += [f"{folder}: is listed as {name}, not as {expected}"] if name != expected else []
    tops = [path for path in root.iterdir() if is_package(path)]
    inner = [path.parent for top in tops for path in top.rglob("__init__.py")]
    found = {path.relative_to(root).as_posix() for path in inner}
    return faults + [
        f"{folder}: a package that setup.py does not list" for folder in sorted(found - {*packages.values()})
    ]


def test_the_whole_source_is_read() -> None:
    folders = {source.folder for source in read_sources()}
    assert {name for name in FOLDERS if (ROOT / name).is_dir()} <= folders
    assert {"pemoe", "trainers", "retrieval", "modeling_pemoe", "datasets_scripts", "tests", "setup.py"} <= folders


def test_folders_hold_few_modules() -> None:
    assert full_folders(source.path for source in read_sources() if source.folder in FOLDERS) == []


def test_library_code_does_not_print() -> None:
    assert faults_of(prints) == []


def test_files_are_short() -> None:
    assert faults_of(long_files) == []


def test_setup_lists_the_packages_that_exist() -> None:
    assert packaging_faults(read_packages((ROOT / "setup.py").read_text(encoding="utf-8")), ROOT) == []


PLANTED = [
    (prints, "retrieval/a.py", "def f():\n    print('hello')"),
    (long_files, "tests/a.py", "x = 1\n" * (MAX_TEST_LINES + 1)),
    (long_files, "trainers/a.py", "x = 1\n" * (MAX_LINES + 1)),
]

CLEAN = [
    (prints, "benchmarks/a.py", "print('table')"),
    (long_files, "tests/a.py", "x = 1\n" * MAX_TEST_LINES),
    (long_files, "trainers/a.py", "x = 1\n" * MAX_LINES),
]


@pytest.mark.parametrize(("rule", "path", "code"), PLANTED)
def test_a_planted_fault_is_found(rule: Callable[[Source], list[str]], path: str, code: str) -> None:
    assert len(rule(Source(path, code))) == 1


@pytest.mark.parametrize(("rule", "path", "code"), CLEAN)
def test_what_is_allowed_is_no_fault(rule: Callable[[Source], list[str]], path: str, code: str) -> None:
    assert rule(Source(path, code)) == []


def test_a_planted_full_folder_is_found() -> None:
    paths = ["trainers/__init__.py", *(f"trainers/a{number}.py" for number in range(MAX_MODULES))]
    assert full_folders([*paths, "trainers/experiments/a.py"]) == []
    assert full_folders([*paths, "trainers/a.py"]) == ["trainers: 15 modules"]


def test_planted_packaging_faults_are_found(tmp_path: Path) -> None:
    for folder in ("pemoe", "trainers", "trainers/extra", "datasets_scripts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    packages = {
        "pemoe": "pemoe",
        "trainers": "trainers",
        "pemoe.datasets_scripts": "datasets_scripts",
        "pemoe.gone": "gone",
    }
    assert packaging_faults(packages, tmp_path) == [
        "gone: listed, but not a package",
        "trainers: is listed as trainers, not as pemoe.trainers",
        "trainers/extra: a package that setup.py does not list",
    ]


def test_packages_are_read_from_setup() -> None:
    assert read_packages("PACKAGES = {'pemoe': 'pemoe'}") == {"pemoe": "pemoe"}
    with pytest.raises(AssertionError, match="PACKAGES"):
        read_packages("packages = []")
