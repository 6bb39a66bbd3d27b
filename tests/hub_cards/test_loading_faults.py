"""Guards: what cannot be loaded from the Hub or a directory says so in one line, in a process without the package:
cut, missing and pickled weights, a spoilt configuration, no tokenizer, an unknown revision, a missing dependency."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import torch
from hub_stranger import copy_repo, run_as_stranger
from local_hub import LocalHub

pytestmark = pytest.mark.slow

TRY = """
import json, sys
import transformers
found = {}
for label, loader, name, options in json.loads(sys.argv[1]):
    try:
        getattr(transformers, loader).from_pretrained(name, trust_remote_code=True, **options)
    except Exception as error:
        found[label] = [type(error).__name__, str(error)]
    else:
        found[label] = None
print(json.dumps(found))
"""
WITHOUT = """
import importlib.machinery
_found = importlib.machinery.PathFinder.find_spec  # as if these were not installed
importlib.machinery.PathFinder.find_spec = lambda name, *rest: (
    None if name.partition(".")[0] in {missing} else _found(name, *rest)
)
"""


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"logit_scale": torch.ones(())}, file)
    return file.getvalue()


def spoil(hub: LocalHub) -> dict[str, str]:
    """Repositories that cannot be loaded, by what is wrong with them: from which they were made."""
    weights, adapter = "model.safetensors", "adapter_model.safetensors"
    files = {name: hub.repos["model", f"me/{name}"].files() for name in ("full", "experts", "infrared", "sharded")}
    shard = sorted(name for name in files["sharded"] if name.endswith(".safetensors"))[1]
    changes = {
        "full cut": ("full", {weights: cut(files["full"][weights])}),
        "full without weights": ("full", {weights: None}),
        "full pickled": ("full", {weights: None, "pytorch_model.bin": pickled()}),
        "full spoilt config": ("full", {"config.json": cut(files["full"]["config.json"])}),
        "full without tokenizer": ("full", {"tokenizer.json": None}),
        "full without processor": (
            "full",
            {"tokenizer.json": None, "tokenizer_config.json": None, "processor_config.json": None},
        ),
        "experts cut": ("experts", {weights: cut(files["experts"][weights])}),
        "experts without weights": ("experts", {weights: None}),
        "experts pickled": ("experts", {weights: None, "pytorch_model.bin": pickled()}),
        "sharded cut": ("sharded", {shard: cut(files["sharded"][shard])}),
        "sharded without a shard": ("sharded", {shard: None}),
        "platform cut": ("infrared", {adapter: cut(files["infrared"][adapter])}),
        "platform pickled": ("infrared", {adapter: None, "adapter_model.bin": pickled()}),
        "platform spoilt config": ("infrared", {"adapter_config.json": b"{"}),
    }
    for label, (source, changed) in changes.items():
        copy_repo(hub, f"me/{source}", f"me/{label.replace(' ', '-')}", **changed)
    return {label: f"me/{label.replace(' ', '-')}" for label in changes}


@pytest.fixture(scope="module")
def faults(published: tuple[LocalHub, Path]) -> tuple[LocalHub, Path, dict[str, str]]:
    hub, root = published
    repos = spoil(hub)
    for name in repos.values():
        folder = root / "faults" / name
        folder.mkdir(parents=True)
        for path, content in hub.repos["model", name].files().items():
            (folder / path).write_bytes(content)
    return hub, root, repos


@pytest.fixture(scope="module")
def found(faults: tuple[LocalHub, Path, dict[str, str]]) -> dict:
    hub, root, repos = faults
    tries = [["revision", "AutoModel", "me/full", {"revision": "v9"}]]
    tries += [["processor revision", "AutoProcessor", "me/full", {"revision": "v9"}]]
    for label, name in repos.items():
        loader = "AutoProcessor" if "tokenizer" in label or "processor" in label else "AutoModel"
        tries += [[label, loader, name, {}], [f"{label}, directory", loader, str(root / "faults" / name), {}]]
    return run_as_stranger(hub, root / "unlucky", TRY, json.dumps(tries))


CUT = r"cannot be read \(Error while deserializing header: .*\); save or download it again$"
PICKLED = r"holds no model\.safetensors, and pickled weights are never read; save the model as safetensors$"
OWN_LINES = {
    "full cut": CUT,
    "experts cut": CUT,
    "sharded cut": CUT,
    "platform cut": rf"adapter_model\.safetensors {CUT}",
    "full pickled": PICKLED,
    "full without weights": PICKLED,
    "experts pickled": PICKLED,
    "experts without weights": PICKLED,
    "platform pickled": r"holds no adapter_model\.safetensors; weights in another format are not read$",
    "full without tokenizer": r"holds no tokenizer\.json; save the processor there, or download it again$",
}
TRANSFORMERS_LINES = {  # which speaks before any code of the repository runs, or knows which shard it looks for
    "full spoilt config": r"config file at '.*config\.json' is not a valid JSON file\.$",
    "full without processor": r"^Unrecognized processing class in \S+\. .* at least one of those",
    "sharded without a shard": r"model-00002-of-\d{5}\.safetensors",
    "platform spoilt config": r"^Expecting property name",
}


@pytest.mark.parametrize("place", ["", ", directory"])
@pytest.mark.parametrize("label", [*OWN_LINES, *TRANSFORMERS_LINES])
def test_a_fault_is_told_in_one_line(
    found: dict, faults: tuple[LocalHub, Path, dict[str, str]], label: str, place: str
) -> None:
    _, root, repos = faults
    kind, line = found[label + place]
    name = str(root / "faults" / repos[label]) if place else repos[label]
    assert re.search({**OWN_LINES, **TRANSFORMERS_LINES}[label], line), line
    assert "\n" not in line
    if label in OWN_LINES:
        assert kind == "OSError" and line.startswith(f"{name}: "), line


def test_no_fault_lacks_a_line(faults: tuple[LocalHub, Path, dict[str, str]]) -> None:
    assert set(faults[2]) == {*OWN_LINES, *TRANSFORMERS_LINES}


@pytest.mark.parametrize("label", ["revision", "processor revision"])
def test_an_unknown_revision_is_named(found: dict, label: str) -> None:
    kind, line = found[label]
    assert kind == "OSError" and line.startswith("v9 is not a valid git identifier") and "\n" not in line


@pytest.mark.parametrize(
    ("missing", "name", "line"),
    [
        ("timm", "me/full", "PE-MoE builds its image encoder with timm: run `pip install timm`"),
        ("open_clip", "me/experts", "this repository holds open_clip weights: run `pip install open_clip_torch`"),
        (
            "peft",
            "me/infrared",
            "Unrecognized model in me/infrared. Should have a `model_type` key in its config.json.",
        ),
    ],
)
def test_a_missing_package_is_told_in_one_line(
    faults: tuple[LocalHub, Path, dict[str, str]], tmp_path: Path, missing: str, name: str, line: str
) -> None:
    """transformers without peft does not look for adapters, and stops before any code of the repository runs."""
    code = WITHOUT.replace("{missing}", repr({missing})) + TRY
    found = run_as_stranger(faults[0], tmp_path / "home", code, json.dumps([["it", "AutoModel", name, {}]]))
    assert found["it"][1] == line
