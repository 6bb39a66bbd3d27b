"""What makes a model's repository an Inference Endpoint that locates: handler, the code it answers with, gallery."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterator
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pyarrow.parquet as pq

from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.engine import ENGINES
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.records import schema_of
from pemoe.retrieval.locating import Locator

HANDLER, REQUIREMENTS, GALLERY, CODE = "handler.py", "requirements.txt", "gallery.parquet", "code"
ENGINE = ENGINES[""].partition(":")[0]  # opened by its address, not by an import


def bundle_endpoint(source: Path, gallery: str, model: str | Path) -> dict[str, bytes]:
    """The files of an endpoint, by path, beside those of the model.

    Args:
        source: folder of the handler and its requirements.
        gallery: address of an index.
        model: directory of the model that it was built with.

    Raises:
        GalleryError: no such index, one of another model, or one without pictures.
    """
    locator = Locator.open(gallery, str(model))
    if not locator.index.count():
        raise GalleryError(f"{gallery}: holds no pictures; add some with pemoe index add")
    files = {name: (source / name).read_bytes() for name in (HANDLER, REQUIREMENTS)}
    code = {f"{CODE}/{path}": content for path, content in code_of(source / HANDLER, ENGINE).items()}
    return {**files, GALLERY: _gallery(locator.index), **code}


def code_of(script: Path, *modules: str) -> dict[str, bytes]:
    """The modules of this package that a script and modules import, by path; a package's face is left empty where
    nothing is imported from the package itself.
    """
    wanted = [*modules, *_imported(script.read_text(encoding="utf-8"))]
    found: dict[str, bytes] = {}
    while wanted:
        name = wanted.pop()
        spec = find_spec(name)
        path = Path(spec.origin)
        here = name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
        if found.get(here):
            continue
        found[here] = path.read_bytes()
        wanted += _imported(found[here].decode(), name if path.name == "__init__.py" else name.rpartition(".")[0])
        parents = [part.parent for part in [Path(here)]]
        while parents[-1].parts:
            found.setdefault(f"{parents[-1]}/__init__.py", b"")
            parents.append(parents[-1].parent)
    return dict(sorted(found.items()))


def _imported(source: str, package: str = "") -> Iterator[str]:
    """Modules of ours that a source imports, inside functions too, but not for type checkers alone."""
    tree = ast.parse(source)
    for_types = {id(inner) for node in ast.walk(tree) if _is_for_types(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import) and id(node) not in for_types:
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            module = resolve_name("." * node.level + (node.module or ""), package)
            inner = (f"{module}.{one.name}" for one in node.names)
            names = [one if one.startswith("pemoe.") and _is_module(one) else module for one in inner]
        yield from (name for name in names if name.startswith("pemoe."))


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def _gallery(index: GalleryIndex) -> bytes:
    """All columns of an index, thumbnails too, by image id; model and calibration in the metadata under `pemoe`."""
    rows = index.read(schema_of(index.model.dimension).names).sort_by("image_id")
    about = {"model": {**index.model.as_json(), "repo": GALLERY}, "calibration": index.calibration}
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({"pemoe": json.dumps(about)}), buffer)
    return buffer.getvalue()
