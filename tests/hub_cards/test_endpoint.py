"""Invariant: a published model with a gallery answers, where this package is not, what `pemoe serve` answers."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from source_tree import ROOT
from tiny_service import write_index

from pemoe import hub_cards
from pemoe.common.errors import InputError
from pemoe.hub_cards import PublishError, plan_model
from pemoe.retrieval.locating import Locator
from pemoe.retrieval.serving.app import build_app
from pemoe.retrieval.serving.bundle import ENGINE, code_of

SOURCE = Path(hub_cards.__file__).with_name("endpoint")
ASKED = (
    {"inputs": "red roof seen from drone"},
    {"inputs": ["blue wall", "green door"], "parameters": {"top_k": 2, "platforms": ["drone"], "thumbnails": True}},
    {"inputs": {"text": ["red roof", "not the blue wall"]}, "parameters": {"near": [50.0, 10.0], "radius_km": 4}},
)
CODE = """
import importlib.util, json, sys
from pathlib import Path
sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in one.__module__]  # an installed package
assert importlib.util.find_spec("pemoe") is None
spec = importlib.util.spec_from_file_location("handler", sys.argv[1] + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(sys.argv[1])
ours = {module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "pemoe"}
assert ours and all(path.startswith(sys.argv[1] + "/code/pemoe/") for path in ours), ours
try:
    handler({"inputs": "a", "parameters": {"topk": 1}})
except Exception as error:
    refused = str(error)
for path in Path(sys.argv[1], "code").rglob("[a-z]*.py"):
    importlib.import_module(".".join(path.relative_to(sys.argv[1] + "/code").with_suffix("").parts))
print(json.dumps([refused, *map(handler, json.loads(sys.argv[2]))]))
"""


def modules_of(code: dict[str, bytes]) -> set[str]:
    """What bundled files import when they are imported, by its first name."""
    found = set()
    for content in code.values():
        for node in ast.parse(content).body:
            if isinstance(node, ast.Import):
                found |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.fixture(scope="module")
def code() -> dict[str, bytes]:
    return code_of(SOURCE / "handler.py", ENGINE)


def test_the_bundled_code_needs_what_an_endpoint_has(code: dict[str, bytes]) -> None:
    assert "pemoe/retrieval/locating/ranking.py" in code and "pemoe/retrieval/index/lance.py" in code
    assert not [path for path in code if path.startswith(("pemoe/trainers", "pemoe/hub_cards", "pemoe/export"))]
    lines = (SOURCE / "requirements.txt").read_text().splitlines()
    setup = (ROOT / "setup.py").read_text()
    assert all(f'"{line}"' in setup for line in lines)
    brought = {"torch", "numpy", "huggingface_hub", "safetensors", "tqdm", "PIL"}  # by those that are named
    assert modules_of(code) <= {"pemoe", *brought, *(line.partition(">")[0] for line in lines)}


def test_every_module_that_the_bundled_code_names_is_bundled(code: dict[str, bytes]) -> None:
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in code}
    named = set()
    for path, content in code.items():
        assert "import pemoe." not in content.decode()
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module.startswith("pemoe"):
                named.add(node.module)
                face = code.get(f"{node.module.replace('.', '/')}/__init__.py")
                from_face = {one.name for one in node.names if f"{node.module}.{one.name}" not in modules}
                assert face is None or not from_face or face, f"{path}: {node.module} is empty"
            elif isinstance(node, ast.Constant) and re.fullmatch(r"pemoe(\.\w+)+(:\w+)?", str(node.value)):
                named.add(node.value.partition(":")[0])
    assert named - modules == {"pemoe.retrieval.index.milvus"}


def test_imports_are_found_in_every_form(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import pemoe.common.files
from pemoe.retrieval.index import Filter, identity
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pemoe.retrieval.scoring import search
def later():
    from pemoe.retrieval.locating import ranking
""")
    code = code_of(script)
    assert {f"pemoe/{name}.py" for name in ("common/files", "retrieval/index/identity")} <= set(code)
    assert code["pemoe/retrieval/index/__init__.py"] and not code["pemoe/retrieval/locating/__init__.py"]
    assert "pemoe/retrieval/locating/ranking.py" in code and "pemoe/retrieval/scoring.py" not in code


def test_a_gallery_of_another_model_and_no_gallery_are_refused(tmp_path: Path) -> None:
    index, model = write_index(tmp_path)
    with pytest.raises(InputError, match="no such index"):
        plan_model(model, "me/pemoe", unmeasured=True, gallery=str(tmp_path / "none"))
    (tmp_path / "adapters" / "night").mkdir(parents=True)
    (tmp_path / "adapters" / "night" / "adapter_config.json").write_text("{}")
    with pytest.raises(PublishError, match="--gallery"):
        plan_model(tmp_path / "adapters", "me/pemoe", unmeasured=True, gallery=index)


@pytest.mark.slow
def test_the_endpoint_answers_what_the_service_answers(tmp_path: Path) -> None:
    index, model = write_index(tmp_path)
    plan = plan_model(model, "me/pemoe", unmeasured=True, gallery=index)
    repository = tmp_path / "repository"
    for file in plan.files:
        target = repository / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file.content, (bytes, Path)):
            target.write_bytes(file.content if isinstance(file.content, bytes) else file.content.read_bytes())
        else:
            file.content.write(target)
    with TestClient(build_app(Locator.open(index))) as client:
        served = [client.post("/", json=one).json() for one in ASKED]
    command = [sys.executable, "-c", CODE, str(repository), json.dumps(ASKED)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    refused, *answers = json.loads(done.stdout.splitlines()[-1])
    assert refused.startswith("parameters.topk: unknown")
    assert answers == served
    assert answers[0]["places"]
