"""Invariant: a published model with a gallery answers, where this package is not, what `pemoe serve` answers."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
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


def test_the_bundled_code_needs_what_an_endpoint_has() -> None:
    code = code_of(SOURCE / "handler.py", ENGINE)
    assert "pemoe/retrieval/locating/ranking.py" in code and "pemoe/retrieval/index/lance.py" in code
    assert not [path for path in code if path.startswith(("pemoe/trainers", "pemoe/hub_cards", "pemoe/export"))]
    lines = (SOURCE / "requirements.txt").read_text().splitlines()
    brought = {"torch", "numpy", "huggingface_hub", "safetensors", "tqdm", "PIL"}  # by those that are named
    assert modules_of(code) <= {"pemoe", *brought, *(line.partition(">")[0] for line in lines)}


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
