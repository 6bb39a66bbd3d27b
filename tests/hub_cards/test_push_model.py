"""Invariant: of a checkpoint's directory exactly what loads it elsewhere is published, with a card and figures without
paths of this machine; weights cut into shards hold every tensor as it was; what nobody could load is refused in one
line, before any server is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from local_hub import LocalHub
from publish_plans import write_adapter, write_metrics, write_model
from safetensors.torch import load_file, save_file
from tiny_backbones import write_open_clip_backbone, write_text_backbone
from tiny_data import build_processor
from tiny_models import build_tiny_inputs

from pemoe.common.errors import InputError
from pemoe.common.weights import hash_weights
from pemoe.hub_cards import PublishError, PushPlan, plan_model
from pemoe.hub_cards.weight_shards import WeightShard
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers.experiments.fresh_process import run_without_package


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("saved") / "run" / "model")


@pytest.fixture
def model_dir(saved_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once, tmp_path / "run" / "model"))


def plan(directory: Path, **options: object) -> PushPlan:
    return plan_model(directory, "me/pemoe", **{"unmeasured": True, **options})


def paths(planned: PushPlan) -> set[str]:
    return {file.path for file in planned.files}


def write_files(planned: PushPlan, directory: Path) -> Path:
    """What a reader of the repository gets."""
    directory.mkdir()
    for file in planned.files:
        if isinstance(file.content, WeightShard):
            file.content.write(directory / file.path)
        else:
            content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
            (directory / file.path).write_bytes(content)
        assert (directory / file.path).stat().st_size == file.size_bytes
    return directory


def test_what_the_trainer_leaves_beside_a_model_is_not_sent(model_dir: Path) -> None:
    saved = {path.name for path in model_dir.iterdir()}
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "events.out", ".token"):
        (model_dir / name).write_bytes(b"a pickle, perhaps")
    (model_dir / "checkpoint-4").mkdir()
    planned = plan(model_dir)
    assert paths(planned) == saved | {"README.md"}
    assert set(planned.left_out) == {
        ".token", "checkpoint-4/", "events.out", "optimizer.pt", "trainer_state.json", "training_args.bin",
    }  # fmt: skip
    assert planned.repo_type == "model" and planned.private and "private" in planned.notes[0]
    assert len(planned.notes) == 2  # nothing is said about code that is the package's own


@pytest.mark.slow
def test_shards_hold_every_tensor_as_it_was_and_load_by_remote_code(model_dir: Path, tmp_path: Path) -> None:
    planned = plan(model_dir, max_shard_size="300KB")
    again = plan(model_dir, max_shard_size="300KB")
    sharded = write_files(planned, tmp_path / "sharded")
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 3 and not (sharded / "model.safetensors").exists()
    assert [file for file in planned.files if isinstance(file.content, WeightShard)] == [
        file for file in again.files if isinstance(file.content, WeightShard)
    ]
    stored = load_file(model_dir / "model.safetensors")
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == stored.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())
    for shard in shards:
        for name, tensor in load_file(shard).items():
            assert index["weight_map"][name] == shard.name and torch.equal(tensor, stored[name])
    twice = plan(sharded, max_shard_size="5GB")  # shards that are small enough stay as they are
    assert paths(twice) == paths(planned)
    whole = write_files(plan(model_dir), tmp_path / "whole")
    inputs = build_tiny_inputs()
    save_file(inputs, tmp_path / "inputs")
    code = """
import sys
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
batch = load_file(sys.argv[1])
outputs = []
for directory in sys.argv[2:]:
    model = AutoModel.from_pretrained(directory, trust_remote_code=True)
    AutoProcessor.from_pretrained(directory, trust_remote_code=True)
    with torch.no_grad():
        outputs.append(model(**batch).logits_per_text)
print(torch.equal(*outputs))
"""
    assert run_without_package(code, str(tmp_path / "inputs"), str(sharded), str(whole)).strip() == "True"


def test_code_of_ones_own_is_sent_as_it_is_and_mentioned(model_dir: Path) -> None:
    with (model_dir / "gates_pemoe.py").open("a") as file:
        file.write("\nOWN = 1\n")
    planned = plan(model_dir)
    assert "gates_pemoe.py" in planned.notes[-1] and "sent as it is" in planned.notes[-1]
    assert (
        next(file for file in planned.files if file.path == "gates_pemoe.py").content == model_dir / "gates_pemoe.py"
    )


@pytest.mark.parametrize("place", ["inside", "above", "named"])
def test_figures_come_from_metrics_without_paths_of_the_machine(model_dir: Path, tmp_path: Path, place: str) -> None:
    path = {"inside": model_dir, "above": model_dir.parent, "named": tmp_path}[place] / "metrics.json"
    content = write_metrics(path)
    planned = plan_model(model_dir, "me/pemoe", metrics=path if place == "named" else None)
    sent = next(file for file in planned.files if file.path == "metrics.json").content.decode()
    assert json.loads(sent)["results"] == content["results"]
    assert json.loads(sent)["data"] == {**content["data"], "root": "photos"}
    assert "anna" not in sent + planned.card and str(tmp_path) not in sent + planned.card
    assert str(path) in planned.notes[1]


def test_figures_of_other_weights_are_refused(model_dir: Path) -> None:
    path = model_dir / "metrics.json"
    content = write_metrics(path)
    assert any("do not say which weights" in note for note in plan_model(model_dir, "me/pemoe").notes)
    measured = {**content, "model": {"weights_sha256": hash_weights(model_dir)}, "host": "box.home", "note": "own"}
    path.write_text(json.dumps(measured))
    planned = plan_model(model_dir, "me/pemoe", max_shard_size="300KB")
    assert not any("which weights" in note for note in planned.notes)
    sent = json.loads(next(file for file in planned.files if file.path == "metrics.json").content)
    assert sent["model"] == measured["model"] and not {"host", "note", "command"} & sent.keys()
    write_files(planned, model_dir.parent / "sharded")
    assert hash_weights(model_dir.parent / "sharded") == hash_weights(model_dir)
    change_weights(lambda one: {**one, "logit_scale": one["logit_scale"] + 1})(model_dir)
    with pytest.raises(PublishError, match=r"metrics\.json, which measured other weights than .*; run pemoe evaluate"):
        plan_model(model_dir, "me/pemoe")


def test_nan_is_no_figure(model_dir: Path) -> None:
    content = write_metrics(model_dir / "metrics.json", extra=float("nan"))
    assert content["results"]["extra"] != content["results"]["extra"]
    with pytest.raises(PublishError, match=r"metrics\.json: holds NaN"):
        plan_model(model_dir, "me/pemoe")


def experts_only(directory: Path) -> Path:
    """An experts-only checkpoint whose backbones are directories."""
    backbones = directory / "backbones"
    torch.manual_seed(0)
    text, vision = write_text_backbone(backbones / "text"), write_open_clip_backbone(backbones / "vision")
    model = PeMoEModel.from_backbones(str(text), str(vision), image_size=196, gate_hidden_dim=8)
    model.save_pretrained(directory / "model", experts_only=True)
    build_processor(196).save_pretrained(directory / "model")
    return directory / "model"


def test_experts_only_need_backbones_that_everybody_has(tmp_path: Path) -> None:
    directory = experts_only(tmp_path)
    with pytest.raises(PublishError, match=r"experts only, and text_repo is \.\./.*; save the full model"):
        plan(directory)
    config = json.loads((directory / "config.json").read_text())
    for repo, refused in (("BAAI/bge-m3", "vision_repo"), (str(tmp_path / "backbones"), "text_repo")):
        (directory / "config.json").write_text(json.dumps({**config, "text_repo": repo}))
        with pytest.raises(PublishError, match=refused):
            plan(directory)
    on_hub = {**config, "text_repo": "BAAI/bge-m3", "vision_repo": "timm/eva02"}
    (directory / "config.json").write_text(json.dumps(on_hub))
    planned = plan(directory)
    assert "model.safetensors" in paths(planned)
    (directory / "timm" / "eva02").mkdir(parents=True)
    with pytest.raises(PublishError, match="vision_repo is timm/eva02"):  # it would be read from that directory
        plan(directory)
    shutil.rmtree(directory / "timm")
    with pytest.raises(PublishError, match="one file; raise --max-shard-size"):
        plan(directory, max_shard_size="10KB")


def drop(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def change_weights(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        tensors = change(load_file(root / "model.safetensors"))
        save_file(tensors, root / "model.safetensors", metadata={"format": "pt"})

    return spoil


def change_config(**fields: object) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        config = json.loads((root / "config.json").read_text())
        (root / "config.json").write_text(json.dumps({**config, **fields}))

    return spoil


def cut(root: Path) -> None:
    path = root / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(root: Path) -> None:
    torch.save({}, root / "pytorch_model.bin")


def disguised(root: Path) -> None:
    torch.save({}, root / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (drop("model.safetensors"), "no model.safetensors, so no weights"),
        (drop("processor_config.json"), "no processor_config.json"),
        (drop("tokenizer.json"), "no tokenizer.json"),
        (drop("config.json"), "no config.json and no adapter_config.json"),
        (drop("gates_pemoe.py"), "its code needs gates_pemoe.py"),
        (drop("modeling_pemoe.py"), "its code needs modeling_pemoe.py"),
        (cut, "model.safetensors: cannot be read as safetensors"),
        (disguised, "model.safetensors: cannot be read as safetensors"),
        (pickled, "pytorch_model.bin: weights in a pickle"),
        (change_config(model_type="bert"), "model_type is 'bert'"),
        (change_config(platforms="drone"), "config.json: "),
        (change_config(gate="own"), "gate: 'own' is unknown"),
        (change_config(auto_map={}), "has no auto_map"),
        (change_config(custom_pipelines=None), "load it and call save_pretrained again"),
        (drop("modules.json"), "load it and call save_pretrained again"),
        (change_config(text_repo="/home/anna/bge"), "text_repo is /home/anna/bge"),
        (change_config(platforms=["satellite", "drone", "ground", "night"]), r"experts\.night\.\S+ is missing"),
        (change_weights(lambda one: {k: v for k, v in one.items() if ".ground." not in k}), r"experts\.ground\."),
        (change_weights(lambda one: {**one, "logit_scale": torch.ones(3)}), r"logit_scale has the shape \(3,\)"),
        (change_weights(lambda one: {**one, "head": torch.ones(3)}), "head is none of them"),
        (lambda root: (root / "config.json").write_text("{"), "cannot be read as JSON"),
    ],
)
def test_what_nobody_could_load_is_refused(model_dir: Path, spoil: Callable[[Path], None], line: str) -> None:
    plan(model_dir)
    spoil(model_dir)
    with pytest.raises(InputError, match=line) as reported:
        plan(model_dir)
    assert "\n" not in str(reported.value)


def test_missing_experts_are_seen_in_code_of_ones_own_too(model_dir: Path) -> None:
    with (model_dir / "gates_pemoe.py").open("a") as file:
        file.write("\nOWN = 1\n")
    change_config(platforms=["satellite", "drone", "ground", "night"])(model_dir)
    with pytest.raises(PublishError, match="no weights of the expert 'night'"):
        plan(model_dir)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "no metrics.json there or above it; name one with --metrics, or say --unmeasured"),
        ({"metrics": "nowhere.json"}, "nowhere.json: no such file"),
        ({"metrics": "m.json", "unmeasured": True}, "contradict"),
        ({"unmeasured": True, "license_id": "My Own"}, "is no licence"),
        ({"unmeasured": True, "max_shard_size": "large"}, "is no size"),
        ({"unmeasured": True, "max_shard_size": "0GB"}, "is no size"),
    ],
)
def test_options_are_refused_in_one_line(model_dir: Path, options: dict, line: str) -> None:
    with pytest.raises(PublishError, match=line):
        plan_model(model_dir, "me/pemoe", **options)
    with pytest.raises(PublishError, match="write it as owner/name"):
        plan_model(model_dir, "pemoe", unmeasured=True)


def test_a_missing_figure_is_named(model_dir: Path) -> None:
    write_metrics(model_dir / "metrics.json", score=None)
    with pytest.raises(PublishError, match="score"):
        plan_model(model_dir, "me/pemoe")
    with pytest.raises(PublishError, match=r"and name its metrics\.json with --metrics"):
        plan_model(model_dir, "me/pemoe")


def test_lora_platforms_are_sent_alone_or_together(tmp_path: Path) -> None:
    for platform in ("infrared", "night"):
        write_adapter(tmp_path / "adapters" / platform, platform)
    write_metrics(tmp_path / "adapters" / "metrics.json")
    (tmp_path / "adapters" / "night" / "README.md").write_text("peft's own")
    together = plan_model(tmp_path / "adapters", "me/lora", license_id="mit")
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert paths(together) == {
        "README.md",
        *(f"{p}/{n}" for p in ("infrared", "night") for n in names),
    }
    assert together.left_out == ("metrics.json", "night/README.md")
    assert any("no figures of their own" in note for note in together.notes)
    with pytest.raises(PublishError, match=r"no figures of their own.*leave out --metrics"):
        plan_model(tmp_path / "adapters", "me/lora", metrics=tmp_path / "adapters" / "metrics.json")
    for word in ("base_model: me/pemoe", "license: mit", 'load_platform("me/lora", subfolder="night")'):
        assert word in together.card
    alone = plan_model(tmp_path / "adapters" / "night", "me/night", unmeasured=True)
    pointers = {"processor_config.json", "modules.json", "sentence_pemoe_config.json"}
    assert paths(alone) == {"README.md", *names, *pointers, "config_sentence_transformers.json"}
    assert 'AutoModel.from_pretrained("me/night"' in alone.card and "Nothing was measured" in alone.card


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (drop("adapter_model.safetensors"), "no adapter_model.safetensors"),
        (lambda root: torch.save({}, root / "adapter_model.bin"), "weights in a pickle"),
        (lambda root: save_file({"a": torch.ones(1)}, root / "adapter_model.safetensors"), "holds no LoRA weights"),
        (lambda root: (root / "adapter_config.json").write_text('{"peft_type": "LORA"}'), "no PE-MoE platform's"),
    ],
)
def test_an_adapter_that_nobody_could_load_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], line: str
) -> None:
    adapter = write_adapter(tmp_path / "infrared")
    spoil(adapter)
    with pytest.raises(PublishError, match=line):
        plan(adapter)
    with pytest.raises(PublishError, match="base_model_name_or_path is /home/anna/model, which is no repository"):
        plan(write_adapter(tmp_path / "local", base="/home/anna/model"))
    write_adapter(tmp_path / "both" / "a", "a", base="me/one")
    write_adapter(tmp_path / "both" / "b", "b", base="me/two")
    with pytest.raises(PublishError, match=r"several base models \(me/one, me/two\)"):
        plan(tmp_path / "both")


def test_a_plan_reaches_no_server(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        plan(model_dir)
        assert hub.requests == []
