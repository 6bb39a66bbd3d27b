"""Invariant: imports are prefixed and go as docs/architecture.md draws them, never in a circle; the model's files can
travel alone. Every rule is a function to faults, run on the whole source and on planted faults, so that none passes by
looking at nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

import pytest
from source_tree import (
    FOLDERS,
    ROOT,
    Import,
    Source,
    faults_of,
    imports_of,
    is_package,
    read_packages,
    read_sources,
    root_of,
)

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE_MOVERS = {"datasets_scripts/augment/pictures.py"}  # may use torchvision inside its functions


def read_rooms(page: str) -> dict[str, set[str]]:
    """The table of docs/architecture.md: room -> rooms it may import, itself included; lines go from below to above.

    Raises:
        AssertionError: a line names a room that is not above it, so that rooms could import each other.
    """
    rooms: dict[str, set[str]] = {}
    for line in re.search(r"^```rooms\n(.*?)^```", page, re.MULTILINE | re.DOTALL).group(1).splitlines():
        room, _, stated = line.partition(":")
        named = {name.strip() for name in stated.split(",") if name.strip()}
        allowed = set(rooms) if named == {"below"} else named
        assert allowed <= set(rooms), f"{room}: {sorted(allowed - set(rooms))} stand on no line above"
        rooms[room] = allowed | {room}
    return rooms


MAY_IMPORT = read_rooms(PAGE)


def targets(found: Import, source: Source) -> set[str]:
    """Modules, packages or names of ours that an import reaches, by their import names."""
    if found.level:
        packages = source.module.split(".")
        up = found.level - source.path.endswith("__init__.py")
        base = ".".join([*packages[: len(packages) - up], *filter(None, [found.module])])
    else:
        base = found.module
    if base.partition(".")[0] != "pemoe":
        return set()
    return {f"{base}.{name}" for name in found.names} or {base}


def room_of(name: str) -> str:
    """The room of a module, package or name of ours: the longest line of the table that leads to it.

    Example: pemoe.datasets_scripts.sources.geotext.reader lies in datasets_scripts/sources, pemoe.PeMoEModel in pemoe.
    """
    parts = name.split(".")
    paths = ["/".join(parts[1:end]) for end in range(len(parts), 1, -1)]
    return next((path for path in paths if path in MAY_IMPORT), "pemoe")


def bare_imports(source: Source) -> list[str]:
    """Our folders are imported by their `pemoe.` names: the bare ones give second copies with other classes."""
    bare = FOLDERS - {"pemoe"}
    return [f"line {found.line}: {found.module}" for found in imports_of(source) if root_of(found) in bare]


def relative_imports(source: Source) -> list[str]:
    """Leading dots are for the model's files alone."""
    if source.folder == "modeling_pemoe":
        return []
    return [f"line {found.line}: {'.' * found.level}{found.module}" for found in imports_of(source) if found.level]


def imports_against_the_direction(source: Source) -> list[str]:
    """A room imports what docs/architecture.md allows it, and its face names of the rooms inside it."""
    if source.folder not in FOLDERS:
        return []
    room = room_of(source.module)
    is_face = source.path == f"{room}/__init__.py"
    allowed = MAY_IMPORT[room] | {inner for inner in MAY_IMPORT if is_face and inner.startswith(f"{room}/")}
    return [
        f"line {found.line}: {room}"
        for found in imports_of(source)
        for room in sorted({room_of(name) for name in targets(found, source)} - allowed)
    ]


def import_cycles(sources: Sequence[Source]) -> list[str]:
    """Modules that import each other, in a circle of any length, inside functions too."""
    modules = {source.module for source in sources if source.folder in FOLDERS}
    graph: dict[str, set[str]] = {}
    for source in sources:
        if source.folder in FOLDERS:
            reached = {name for found in imports_of(source) for name in targets(found, source)}
            named = {name if name in modules else name.rpartition(".")[0] for name in reached}
            graph[source.module] = named & modules - {source.module}
    faults = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1]  # each is imported by the next
            faults.append(" <- ".join(circle))
            graph[circle[1]] = graph[circle[1]] - {circle[0]}
        else:
            return faults


def page_faults(page: str, folders: Iterable[str]) -> list[str]:
    """Every room of the page's table exists and is drawn, and every package folder belongs to a room."""
    rooms, drawn = read_rooms(page), page.partition("```rooms")[0].split()
    faults = [f"{room}: not drawn" for room in rooms if room.removeprefix("datasets_scripts/") not in drawn]
    faults += [f"{room}: no such room" for room in rooms if not _exists(room)]
    owners = set(rooms) - {"datasets_scripts", "pemoe"}  # what lies in these two needs a line of its own
    return faults + [f"{folder}: in no room" for folder in folders if not {folder, folder.rpartition("/")[0]} & owners]


def _exists(room: str) -> bool:
    return is_package(ROOT / room) or (ROOT / f"{room}.py").is_file()


def imports_that_cannot_travel(source: Source) -> list[str]:
    """The model's files import each other as `from .x import Name` and nothing of ours by its package name."""
    if source.folder != "modeling_pemoe":
        return []
    faults = []
    for found in imports_of(source):
        flat = found.level == 1 and found.module and "." not in found.module and "*" not in found.names
        if (found.level and not flat) or root_of(found) == "pemoe":
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
    return [f"{one.module}" for one in found if not one.dynamic and root_of(one) in ("timm", "open_clip")]


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
        if root_of(found) == "torch"
        or (root_of(found) == "torchvision" and (found.line in at_once or source.path not in PICTURE_MOVERS))
    ]


def test_no_folder_is_imported_by_its_bare_name() -> None:
    assert faults_of(bare_imports) == []


def test_only_the_model_uses_relative_imports() -> None:
    assert faults_of(relative_imports) == []


def test_imports_go_one_way() -> None:
    assert faults_of(imports_against_the_direction) == []


def test_no_modules_import_each_other() -> None:
    assert import_cycles(read_sources()) == []


def test_the_architecture_page_shows_the_rooms_that_exist() -> None:
    packages = read_packages((ROOT / "setup.py").read_text(encoding="utf-8")).values()
    assert page_faults(PAGE, set(packages) - {"datasets_scripts", "pemoe"}) == []


def test_model_files_import_each_other_by_name() -> None:
    assert faults_of(imports_that_cannot_travel) == []


def test_no_text_in_model_files_reads_as_an_import() -> None:
    assert faults_of(strings_that_read_as_imports) == []


def test_model_files_do_not_demand_timm_or_open_clip() -> None:
    assert faults_of(hard_imports_of_image_libraries) == []


def test_data_code_is_free_of_torch() -> None:
    assert faults_of(torch_in_data_code) == []


PLANTED = [
    (bare_imports, "trainers/a.py", "import retrieval"),
    (bare_imports, "pemoe/a.py", "from datasets_scripts.schema import FEATURES"),
    (bare_imports, "tests/a.py", "def f():\n    from modeling_pemoe import PeMoEModel"),
    (bare_imports, "tests/a.py", "import importlib\nimportlib.import_module('hub_cards.cards')"),
    (relative_imports, "trainers/a.py", "from .errors import TrainingError"),
    (relative_imports, "retrieval/a.py", "from . import metrics"),
    (imports_against_the_direction, "retrieval/a.py", "from pemoe.trainers.batches.pairs import PairDataset"),
    (imports_against_the_direction, "retrieval/a.py", "import pemoe.hub_cards"),
    (imports_against_the_direction, "hub_cards/a.py", "from pemoe import trainers"),
    (imports_against_the_direction, "trainers/a.py", "from pemoe import PeMoEModel"),
    (imports_against_the_direction, "trainers/a.py", "from pemoe.cli import app"),
    (
        imports_against_the_direction,
        "datasets_scripts/refine/a.py",
        "from pemoe.datasets_scripts.refine.llm.a import b",
    ),
    (
        imports_against_the_direction,
        "datasets_scripts/refine/__init__.py",
        "from pemoe.datasets_scripts.builds.a import b",
    ),
    (imports_against_the_direction, "trainers/a.py", "from pemoe import __version__"),
    (imports_against_the_direction, "common/runs.py", "from pemoe import __version__"),
    (imports_against_the_direction, "common/runs.py", "from pemoe.datasets_scripts.schema import DataError"),
    (imports_against_the_direction, "modeling_pemoe/a.py", "from pemoe.common.errors import InputError"),
    (imports_against_the_direction, "datasets_scripts/a.py", "from pemoe.modeling_pemoe import PeMoEConfig"),
    (imports_against_the_direction, "datasets_scripts/campus/a.py", "from pemoe.retrieval import search"),
    (imports_against_the_direction, "modeling_pemoe/a.py", "def f():\n    import pemoe.datasets_scripts.schema"),
    (imports_against_the_direction, "datasets_scripts/text/a.py", "from pemoe.datasets_scripts import PLATFORMS"),
    (imports_against_the_direction, "datasets_scripts/text/a.py", "from pemoe.datasets_scripts.sanitize import MODES"),
    (imports_against_the_direction, "datasets_scripts/sources/a.py", "import pemoe.datasets_scripts.filters.filters"),
    (
        imports_against_the_direction,
        "datasets_scripts/sources/folder/a.py",
        "from pemoe.datasets_scripts import campus",
    ),
    (
        imports_against_the_direction,
        "datasets_scripts/sources/geotext/a.py",
        "from pemoe.datasets_scripts.sources.registry import READERS",
    ),
    (imports_against_the_direction, "datasets_scripts/refine/a.py", "from pemoe.datasets_scripts.refine.llm import x"),
    (imports_against_the_direction, "datasets_scripts/schema.py", "from pemoe.datasets_scripts.text import sentences"),
    (
        imports_against_the_direction,
        "trainers/a.py",
        "import importlib\nimportlib.import_module('pemoe.trainers.experiments')",
    ),
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
    (imports_against_the_direction, "datasets_scripts/text/a.py", "from pemoe.datasets_scripts import schema"),
    (
        imports_against_the_direction,
        "datasets_scripts/sources/registry.py",
        "from pemoe.datasets_scripts.campus.reader import CampusReader",
    ),
    (imports_against_the_direction, "trainers/experiments/a.py", "from pemoe.trainers.stages import build_model"),
    (imports_against_the_direction, "tests/a.py", "from pemoe import PeMoEModel"),
    (imports_that_cannot_travel, "modeling_pemoe/a.py", "import torch\nfrom .gates_pemoe import SoftmaxGate"),
    (strings_that_read_as_imports, "modeling_pemoe/a.py", 'from .x import Name\n"""Numbers from .5 on."""'),
    (hard_imports_of_image_libraries, "modeling_pemoe/a.py", "import importlib\nimportlib.import_module('timm')"),
    (
        hard_imports_of_image_libraries,
        "modeling_pemoe/a.py",
        "try:\n    import timm\nexcept ImportError:\n    timm = None",
    ),
]


@pytest.mark.parametrize(("rule", "path", "code"), PLANTED)
def test_a_planted_fault_is_found(rule: Callable[[Source], list[str]], path: str, code: str) -> None:
    assert len(rule(Source(path, code))) == 1


@pytest.mark.parametrize(("rule", "path", "code"), CLEAN)
def test_what_is_allowed_is_no_fault(rule: Callable[[Source], list[str]], path: str, code: str) -> None:
    assert rule(Source(path, code)) == []


CYCLE = [
    Source("trainers/__init__.py", "from pemoe.trainers.c import Name"),
    Source("trainers/a.py", "from pemoe.trainers import b"),
    Source("trainers/b.py", "def f():\n    from pemoe.trainers.c import Name"),
    Source("trainers/c.py", "import pemoe.trainers.a"),
    Source("modeling_pemoe/a.py", "from .b import Name"),
    Source("modeling_pemoe/b.py", "from .a import Name"),
]


def test_planted_cycles_are_found() -> None:
    faults = import_cycles(CYCLE)
    assert len(faults) == 2
    assert "pemoe.modeling_pemoe.a <- pemoe.modeling_pemoe.b <- pemoe.modeling_pemoe.a" in " <- ".join(faults * 2)
    assert all(any(f"pemoe.trainers.{name}" in fault for fault in faults) for name in "abc")
    assert import_cycles(CYCLE[:3] + CYCLE[4:5]) == []


def test_planted_faults_of_the_page_are_found() -> None:
    page = "│ common  text │\n```rooms\ncommon:\ndatasets_scripts/text: common\n```"
    assert page_faults(page, ["datasets_scripts/text", "common/inner"]) == []
    assert page_faults(page, ["datasets_scripts/new", "new"]) == [
        "datasets_scripts/new: in no room",
        "new: in no room",
    ]
    assert page_faults(page.replace("text │", "│"), []) == ["datasets_scripts/text: not drawn"]
    assert page_faults(page.replace("text", "gone"), []) == ["datasets_scripts/gone: no such room"]
    with pytest.raises(AssertionError, match="no line above"):
        read_rooms("```rooms\ncommon: pemoe\npemoe:\n```")
