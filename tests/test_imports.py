"""Invariant: the source keeps its shape. Imports are prefixed and go one way, the model's files can travel alone,
library code never prints, files stay short, and setup.py names exactly the packages that exist. Every rule is a
function from one file to its faults, run on the whole source and on planted faults, so that none passes by looking at
nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("common", "modeling_pemoe", "datasets_scripts", "retrieval", "hub_cards", "trainers", "pemoe")
ALONE = {"common", "modeling_pemoe"}  # import nothing of ours
BESIDE = {"datasets_scripts": {"modeling_pemoe"}}  # on one floor
MAY_IMPORT = {  # folder -> folders of ours that it may import, itself included
    name: {name} if name in ALONE else {*FLOORS[: floor + 1]} - BESIDE.get(name, set())
    for floor, name in enumerate(FLOORS)
}
FOLDERS = set(MAY_IMPORT)
PICTURE_MOVERS = {"datasets_scripts/augment/pictures.py"}  # may use torchvision inside its functions
MAX_LINES = 500


class Source(NamedTuple):
    """One Python file: path from the root with `/`, and its text."""

    path: str
    text: str

    @property
    def folder(self) -> str:
        return self.path.partition("/")[0]


class Import(NamedTuple):
    """One import statement, or one `import_module("...")` call (`dynamic`)."""

    line: int
    level: int  # leading dots
    module: str  # "" in `from . import x`
    names: tuple[str, ...]  # () in `import x`
    dynamic: bool


def read_sources() -> list[Source]:
    places = [ROOT / folder for folder in sorted(FOLDERS | {"tests", "benchmarks"})]
    paths = [ROOT / "setup.py", *(path for place in places for path in sorted(place.rglob("*.py")))]
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def imports_of(source: Source) -> Iterator[Import]:
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


def _root_of(found: Import) -> str:
    return found.module.partition(".")[0] if found.level == 0 else ""


def _targets(found: Import) -> set[str]:
    """Folders of ours that an import reaches; "pemoe" is the front door itself."""
    if _root_of(found) != "pemoe":
        return set()
    parts = found.module.split(".")
    seconds = parts[1:2] or found.names or ("",)
    return {second if second in FOLDERS else "pemoe" for second in seconds}


def bare_imports(source: Source) -> list[str]:
    """Our folders are imported by their `pemoe.` names: the bare ones give second copies with other classes."""
    bare = FOLDERS - {"pemoe"}
    return [f"line {found.line}: {found.module}" for found in imports_of(source) if _root_of(found) in bare]


def relative_imports(source: Source) -> list[str]:
    """Leading dots are for the model's files alone."""
    if source.folder == "modeling_pemoe":
        return []
    return [f"line {found.line}: {'.' * found.level}{found.module}" for found in imports_of(source) if found.level]


def imports_against_the_direction(source: Source) -> list[str]:
    """pemoe -> trainers -> hub_cards -> retrieval -> modeling_pemoe, datasets_scripts -> common."""
    if source.folder not in FOLDERS:
        return []
    faults = []
    for found in imports_of(source):
        faults += [f"line {found.line}: {name}" for name in sorted(_targets(found) - MAY_IMPORT[source.folder])]
    return faults


def imports_that_cannot_travel(source: Source) -> list[str]:
    """The model's files import each other as `from .x import Name` and nothing of ours by its package name."""
    if source.folder != "modeling_pemoe":
        return []
    faults = []
    for found in imports_of(source):
        flat = found.level == 1 and found.module and "." not in found.module and "*" not in found.names
        if (found.level and not flat) or _root_of(found) == "pemoe":
            faults.append(f"line {found.line}: {'.' * found.level}{found.module} {found.names}")
    return faults


def strings_that_read_as_imports(source: Source) -> list[str]:
    """Remote code is scanned by regular expression: text whose line begins with `from .` is taken for an import."""
    if source.folder != "modeling_pemoe":
        return []
    nodes = (node for node in ast.walk(ast.parse(source.text)) if isinstance(node, ast.Constant))
    texts = ((node.lineno, node.value) for node in nodes if isinstance(node.value, str))
    return [f"line {line}: {text[:40]!r}" for line, text in texts if re.search(r"^\s*(from|import)\s+\.", text, re.M)]


def hard_imports_of_image_libraries(source: Source) -> list[str]:
    """Remote code that names timm or open_clip outside `try` cannot be loaded where they are missing."""
    if source.folder != "modeling_pemoe":
        return []
    kept = _WithoutTry().visit(ast.parse(source.text))
    found = imports_of(Source(source.path, ast.unparse(kept)))
    return [f"{one.module}" for one in found if not one.dynamic and _root_of(one) in ("timm", "open_clip")]


class _WithoutTry(ast.NodeTransformer):
    def visit_Try(self, node: ast.Try) -> ast.Pass:
        return ast.Pass()


def torch_in_data_code(source: Source) -> list[str]:
    """Building data needs no torch; moving pictures asks torchvision once it is done."""
    if source.folder not in ("datasets_scripts", "common"):
        return []
    at_once = {node.lineno for node in ast.parse(source.text).body}
    return [
        f"line {found.line}: {found.module}"
        for found in imports_of(source)
        if _root_of(found) == "torch"
        or (_root_of(found) == "torchvision" and (found.line in at_once or source.path not in PICTURE_MOVERS))
    ]


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
    return [f"{lines} lines"] if lines >= MAX_LINES else []


def read_packages(setup: str) -> dict[str, str]:
    """`PACKAGES` of setup.py: import name -> folder."""
    for node in ast.parse(setup).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PACKAGES":
            return ast.literal_eval(node.value)
    raise AssertionError("setup.py has no PACKAGES dict")


def packaging_faults(packages: dict[str, str], root: Path) -> list[str]:
    """Every listed folder exists as a package under its own name, and every package folder is listed."""
    faults = [f"{folder}: listed, but not a package" for folder in packages.values() if not _is_package(root / folder)]
    for name, folder in packages.items():
        expected = folder if folder == "pemoe" else "pemoe." + folder.replace("/", ".")
        faults += [f"{folder}: is listed as {name}, not as {expected}"] if name != expected else []
    tops = [path for path in root.iterdir() if _is_package(path)]
    inner = [path.parent for top in tops for path in top.rglob("__init__.py")]
    found = {path.relative_to(root).as_posix() for path in inner}
    return faults + [
        f"{folder}: a package that setup.py does not list" for folder in sorted(found - {*packages.values()})
    ]


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()


def faults_of(rule: Callable[[Source], list[str]]) -> list[str]:
    return [f"{source.path}: {fault}" for source in read_sources() for fault in rule(source)]


def test_the_whole_source_is_read() -> None:
    folders = {source.folder for source in read_sources()}
    assert {name for name in FOLDERS if (ROOT / name).is_dir()} <= folders
    assert {"pemoe", "trainers", "retrieval", "modeling_pemoe", "datasets_scripts", "tests", "setup.py"} <= folders


def test_no_folder_is_imported_by_its_bare_name() -> None:
    assert faults_of(bare_imports) == []


def test_only_the_model_uses_relative_imports() -> None:
    assert faults_of(relative_imports) == []


def test_imports_go_one_way() -> None:
    assert faults_of(imports_against_the_direction) == []


def test_model_files_import_each_other_by_name() -> None:
    assert faults_of(imports_that_cannot_travel) == []


def test_no_text_in_model_files_reads_as_an_import() -> None:
    assert faults_of(strings_that_read_as_imports) == []


def test_model_files_do_not_demand_timm_or_open_clip() -> None:
    assert faults_of(hard_imports_of_image_libraries) == []


def test_data_code_is_free_of_torch() -> None:
    assert faults_of(torch_in_data_code) == []


def test_library_code_does_not_print() -> None:
    assert faults_of(prints) == []


def test_files_are_short() -> None:
    assert faults_of(long_files) == []


def test_setup_lists_the_packages_that_exist() -> None:
    assert packaging_faults(read_packages((ROOT / "setup.py").read_text(encoding="utf-8")), ROOT) == []


PLANTED = [
    (bare_imports, "trainers/a.py", "import retrieval"),
    (bare_imports, "pemoe/a.py", "from datasets_scripts.schema import FEATURES"),
    (bare_imports, "tests/a.py", "def f():\n    from modeling_pemoe import PeMoEModel"),
    (bare_imports, "tests/a.py", "import importlib\nimportlib.import_module('hub_cards.cards')"),
    (relative_imports, "trainers/a.py", "from .errors import TrainingError"),
    (relative_imports, "retrieval/a.py", "from . import metrics"),
    (imports_against_the_direction, "retrieval/a.py", "from pemoe.trainers.data import PairDataset"),
    (imports_against_the_direction, "retrieval/a.py", "import pemoe.hub_cards"),
    (imports_against_the_direction, "hub_cards/a.py", "from pemoe import trainers"),
    (imports_against_the_direction, "trainers/a.py", "from pemoe import PeMoEModel"),
    (imports_against_the_direction, "trainers/a.py", "from pemoe.cli import app"),
    (imports_against_the_direction, "trainers/a.py", "from pemoe import __version__"),
    (imports_against_the_direction, "common/runs.py", "from pemoe import __version__"),
    (imports_against_the_direction, "common/runs.py", "from pemoe.datasets_scripts.schema import DataError"),
    (imports_against_the_direction, "modeling_pemoe/a.py", "from pemoe.common.errors import InputError"),
    (imports_against_the_direction, "datasets_scripts/a.py", "from pemoe.modeling_pemoe import PeMoEConfig"),
    (imports_against_the_direction, "datasets_scripts/campus/a.py", "from pemoe.retrieval import search"),
    (imports_against_the_direction, "modeling_pemoe/a.py", "def f():\n    import pemoe.datasets_scripts.schema"),
    (imports_that_cannot_travel, "modeling_pemoe/a.py", "from . import gates_pemoe"),
    (imports_that_cannot_travel, "modeling_pemoe/a.py", "from .gates_pemoe import *"),
    (imports_that_cannot_travel, "modeling_pemoe/a.py", "from ..retrieval import search"),
    (imports_that_cannot_travel, "modeling_pemoe/a.py", "from .sub.gates import SoftmaxGate"),
    (imports_that_cannot_travel, "modeling_pemoe/a.py", "from pemoe.modeling_pemoe.gates_pemoe import SoftmaxGate"),
    (strings_that_read_as_imports, "modeling_pemoe/a.py", '"""Text.\n\n    from .x import Name\n"""'),
    (hard_imports_of_image_libraries, "modeling_pemoe/a.py", "import timm"),
    (hard_imports_of_image_libraries, "modeling_pemoe/a.py", "def f():\n    from open_clip.model import CLIP"),
    (torch_in_data_code, "datasets_scripts/a.py", "def f():\n    import torch.nn as nn"),
    (torch_in_data_code, "datasets_scripts/campus/a.py", "from torch import Tensor"),
    (torch_in_data_code, "common/a.py", "import torch"),
    (torch_in_data_code, "datasets_scripts/a.py", "def f():\n    from torchvision.transforms import v2"),
    (torch_in_data_code, "datasets_scripts/augment/pictures.py", "from torchvision.transforms import v2"),
    (torch_in_data_code, "datasets_scripts/augment/pictures.py", "def f():\n    import torch"),
    (prints, "retrieval/a.py", "def f():\n    print('hello')"),
    (long_files, "tests/a.py", "x = 1\n" * MAX_LINES),
]

CLEAN = [
    (
        torch_in_data_code,
        "datasets_scripts/augment/pictures.py",
        "def f():\n    from torchvision.transforms import v2",
    ),
    (bare_imports, "modeling_pemoe/a.py", "from .modeling_pemoe import PeMoEModel"),
    (imports_against_the_direction, "datasets_scripts/a.py", "from pemoe.common.errors import InputError"),
    (imports_against_the_direction, "pemoe/cli.py", "from pemoe.trainers import PeMoETrainer"),
    (imports_against_the_direction, "tests/a.py", "from pemoe import PeMoEModel"),
    (imports_that_cannot_travel, "modeling_pemoe/a.py", "import torch\nfrom .gates_pemoe import SoftmaxGate"),
    (strings_that_read_as_imports, "modeling_pemoe/a.py", 'from .x import Name\n"""Numbers from .5 on."""'),
    (hard_imports_of_image_libraries, "modeling_pemoe/a.py", "import importlib\nimportlib.import_module('timm')"),
    (
        hard_imports_of_image_libraries,
        "modeling_pemoe/a.py",
        "try:\n    import timm\nexcept ImportError:\n    timm = None",
    ),
    (prints, "benchmarks/a.py", "print('table')"),
    (long_files, "tests/a.py", "x = 1\n" * (MAX_LINES - 1)),
]


@pytest.mark.parametrize(("rule", "path", "code"), PLANTED)
def test_a_planted_fault_is_found(rule: Callable[[Source], list[str]], path: str, code: str) -> None:
    assert len(rule(Source(path, code))) == 1


@pytest.mark.parametrize(("rule", "path", "code"), CLEAN)
def test_what_is_allowed_is_no_fault(rule: Callable[[Source], list[str]], path: str, code: str) -> None:
    assert rule(Source(path, code)) == []


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
