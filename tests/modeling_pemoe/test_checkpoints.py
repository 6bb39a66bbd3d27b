"""Guards: full and experts-only checkpoints reload bit for bit, fp32 and bf16, also by remote code in a fresh process
that cannot import the package and whose heap holds NaN; experts-only refuses what it could not restore."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_backbones import write_open_clip_backbone, write_text_backbone
from tiny_models import build_tiny_inputs, build_tiny_model

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers.experiments.fresh_process import run_without_package

IMAGE_SIZE = 196  # not the backbone's 224: its position embeddings must be resampled

RELOAD = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModel
batch = load_file(sys.argv[1])
names = ("text_embeds", "image_embeds", "gate_weights", "gate_logits", "logits_per_text", "logit_scale")
for checkpoint in sys.argv[2:]:
    dirt = [torch.full((size,), float("nan")) for size in (64, 1024, 16384, 262144) for _ in range(32)]
    del dirt
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    with torch.no_grad():
        output = model(**batch)
    save_file({name: output[name].contiguous() for name in names}, Path(checkpoint) / "outputs")
"""
KINDS = {
    f"{'experts' if experts_only else 'whole'}-{str(dtype)[6:]}": (experts_only, dtype)
    for experts_only in (False, True)
    for dtype in (torch.float32, torch.bfloat16)
}


def build_backbone_model(folder: Path) -> PeMoEModel:
    torch.manual_seed(0)
    text_dir = write_text_backbone(folder / "backbones" / "text")
    vision_dir = write_open_clip_backbone(folder / "backbones" / "vision")
    return PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_size=IMAGE_SIZE, gate_hidden_dim=8)


@pytest.fixture
def backbone_model(tmp_path: Path) -> PeMoEModel:
    return build_backbone_model(tmp_path)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one checkpoint of each kind, and beside its weights the outputs of one fresh process, the inputs
    and, in `KIND.original`, the outputs of the model that was saved."""
    folder = tmp_path_factory.mktemp("reloaded")
    inputs = build_tiny_inputs(image_size=IMAGE_SIZE)
    save_file(inputs, folder / "inputs")
    for kind, (experts_only, dtype) in KINDS.items():
        model = build_backbone_model(folder / f"{kind}.model").to(dtype)  # rope tables stay fp32-made, as after a load
        model.save_pretrained(folder / kind, experts_only=experts_only)
        with torch.no_grad():
            output = model(**inputs)
        tensors = {name: tensor.contiguous() for name, tensor in output.items() if tensor is not None}
        torch.save(tensors, folder / f"{kind}.original")
    run_without_package(RELOAD, str(folder / "inputs"), *(str(folder / kind) for kind in KINDS))
    return folder


def assert_same_outputs(first: PeMoEModel, second: PeMoEModel, image_size: int) -> None:
    inputs = build_tiny_inputs(image_size=image_size)
    with torch.no_grad():
        one, two = first(**inputs), second(**inputs)
    for name in ("text_embeds", "image_embeds", "gate_weights", "logits_per_text"):
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_in_a_fresh_process(reloaded: Path, kind: str) -> None:
    model = PeMoEModel.from_pretrained(
        reloaded / kind
    )  # rope tables of a cast model stay fp32-made, as after any load
    assert model.dtype == KINDS[kind][1]
    original = torch.load(reloaded / f"{kind}.original")
    for name, tensor in load_file(reloaded / kind / "outputs").items():
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, original[name]), name


def test_checkpoint_without_backbones_reloads_too(tmp_path: Path) -> None:
    model = build_tiny_model()
    model.save_pretrained(tmp_path / "checkpoint")
    assert_same_outputs(model, PeMoEModel.from_pretrained(tmp_path / "checkpoint"), 56)


def test_experts_only_holds_no_trunk_and_moves_with_its_backbones(tmp_path: Path, backbone_model: PeMoEModel) -> None:
    backbone_model.save_pretrained(tmp_path / "checkpoint", experts_only=True)
    with safe_open(tmp_path / "checkpoint" / "model.safetensors", "pt") as file:
        assert {name.split(".")[0] for name in list(file.keys())} == {"experts", "gate", "logit_scale"}
    assert str(tmp_path) not in (tmp_path / "checkpoint" / "config.json").read_text()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(tmp_path / "checkpoint", elsewhere / "checkpoint")
    shutil.move(tmp_path / "backbones", elsewhere / "backbones")
    assert_same_outputs(backbone_model, PeMoEModel.from_pretrained(elsewhere / "checkpoint"), IMAGE_SIZE)


def test_experts_only_can_be_saved_again_after_loading(tmp_path: Path, backbone_model: PeMoEModel) -> None:
    backbone_model.save_pretrained(tmp_path / "first", experts_only=True)
    again = PeMoEModel.from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "deeper" / "second", experts_only=True)
    assert_same_outputs(backbone_model, PeMoEModel.from_pretrained(tmp_path / "deeper" / "second"), IMAGE_SIZE)
    again.save_pretrained(tmp_path / "full")
    assert_same_outputs(backbone_model, PeMoEModel.from_pretrained(tmp_path / "full"), IMAGE_SIZE)


def test_experts_only_refuses_a_model_without_backbones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no repository or directory"):
        build_tiny_model().save_pretrained(tmp_path / "checkpoint", experts_only=True)
    assert not (tmp_path / "checkpoint").exists()


def test_experts_only_refuses_a_trained_trunk(tmp_path: Path, backbone_model: PeMoEModel) -> None:
    with torch.no_grad():
        backbone_model.vision_trunk.cls_token[0, 0, 0] += 1e-6
    with pytest.raises(ValueError, match="differ from their backbones"):
        backbone_model.save_pretrained(tmp_path / "checkpoint", experts_only=True)
    assert not (tmp_path / "checkpoint").exists()


def test_changed_backbone_is_noticed_on_load(tmp_path: Path, backbone_model: PeMoEModel) -> None:
    backbone_model.save_pretrained(tmp_path / "checkpoint", experts_only=True)
    shutil.rmtree(tmp_path / "backbones" / "text")
    torch.manual_seed(99)
    text = write_text_backbone(tmp_path / "backbones" / "text")
    weights = load_file(text / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 5] += 1
    from safetensors.torch import save_file

    save_file(weights, text / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="other weights"):
        PeMoEModel.from_pretrained(tmp_path / "checkpoint")


def test_full_checkpoint_without_trunk_weights_is_refused(tmp_path: Path) -> None:
    model = build_tiny_model()
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("vision_trunk.")}
    model.save_pretrained(tmp_path / "checkpoint", state_dict=rest)
    with pytest.raises(ValueError, match="weights are missing, first vision_trunk"):
        PeMoEModel.from_pretrained(tmp_path / "checkpoint")


def test_loading_keeps_the_trunk_frozen(tmp_path: Path) -> None:
    build_tiny_model().save_pretrained(tmp_path / "checkpoint")
    model = PeMoEModel.from_pretrained(tmp_path / "checkpoint")
    trainable = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"experts", "gate", "logit_scale"}


def test_added_platform_survives_saving(tmp_path: Path) -> None:
    model = build_tiny_model()
    model.add_platform("infrared", init_from="ground")
    model.save_pretrained(tmp_path / "checkpoint")
    assert_same_outputs(model, PeMoEModel.from_pretrained(tmp_path / "checkpoint"), 56)


@pytest.mark.slow
def test_missing_dependency_names_the_pip_package(tmp_path: Path) -> None:
    build_tiny_model().save_pretrained(tmp_path / "checkpoint")
    code = """
sys.modules["timm"] = None
from transformers import AutoModel
AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
    with pytest.raises(RuntimeError, match="pip install timm"):
        run_without_package(code, str(tmp_path / "checkpoint"))
    read_open_clip = """
sys.modules["open_clip"] = None
from transformers import AutoModel
AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
    text_dir, vision_dir = tmp_path / "b" / "text", tmp_path / "b" / "vision"
    write_text_backbone(text_dir)
    write_open_clip_backbone(vision_dir)
    model = PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_size=IMAGE_SIZE)
    model.save_pretrained(tmp_path / "experts", experts_only=True)
    with pytest.raises(RuntimeError, match="pip install open_clip_torch"):
        run_without_package(read_open_clip, str(tmp_path / "experts"))


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map_loads_the_same(tmp_path: Path, device_map: object) -> None:
    model = build_tiny_model()
    model.save_pretrained(tmp_path / "checkpoint")
    assert_same_outputs(model, PeMoEModel.from_pretrained(tmp_path / "checkpoint", device_map=device_map), 56)


def test_compiled_model_scores_the_same() -> None:
    model, inputs = build_tiny_model(), build_tiny_inputs()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager")(**inputs)  # the graph is what is at stake, not the kernels
        assert torch.allclose(compiled.logits_per_text, model(**inputs).logits_per_text, atol=1e-5)


def test_config_fields_can_be_overridden_on_load(tmp_path: Path) -> None:
    build_tiny_model(tail_dropout=0.0).save_pretrained(tmp_path / "checkpoint")
    model = PeMoEModel.from_pretrained(tmp_path / "checkpoint", tail_dropout=0.3)
    assert model.experts["drone"].text_layers[0].output.dropout.p == 0.3


def test_missing_expert_is_refused(tmp_path: Path) -> None:
    model = build_tiny_model()
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("experts.drone.")}
    model.save_pretrained(tmp_path / "checkpoint", state_dict=rest)
    with pytest.raises(ValueError, match=r"weights are missing, first experts\.drone"):
        PeMoEModel.from_pretrained(tmp_path / "checkpoint")


def test_full_checkpoint_tells_no_path_of_this_machine(tmp_path: Path, backbone_model: PeMoEModel) -> None:
    backbone_model.save_pretrained(tmp_path / "checkpoint")
    assert "backbones" not in (tmp_path / "checkpoint" / "config.json").read_text().replace("backbone_weights", "")


def fill_hub_cache(cache: Path, repo: str, source: Path) -> None:
    """Lay a directory out as the Hub's cache holds a downloaded repository."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    shutil.copytree(source, folder / "snapshots" / commit)


@pytest.mark.slow
def test_hub_ids_are_read_from_the_cache_at_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    fill_hub_cache(cache, "me/text", write_text_backbone(tmp_path / "text"))
    fill_hub_cache(cache, "me/vision", write_open_clip_backbone(tmp_path / "vision"))
    code = """
cache, checkpoint = sys.argv[1:3]
from transformers import AutoModel
model = AutoModel.from_pretrained("me/pemoe", trust_remote_code=True, cache_dir=cache)
assert model.config.text_repo == "me/text" and model.config.text_revision.startswith("0123"), model.config
print(float(model.get_text_features(torch.arange(3, 9)[None]).text_embeds.sum()))
"""
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    make = """
import sys
import torch
from pemoe.modeling_pemoe import PeMoEModel
torch.manual_seed(0)
model = PeMoEModel.from_backbones("me/text", "me/vision", image_size=196, gate_hidden_dim=8)
assert model.config.vision_revision.startswith("0123"), model.config.vision_revision
model.save_pretrained(sys.argv[1], experts_only=True)
print(float(model.get_text_features(torch.arange(3, 9)[None]).text_embeds.sum()))
"""
    made = subprocess.run(
        [sys.executable, "-c", make, str(tmp_path / "made")], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-1500:]
    fill_hub_cache(cache, "me/pemoe", tmp_path / "made")
    answer = run_without_package(code, str(cache), str(tmp_path / "made"))
    assert float(answer) == float(made.stdout)


def test_directory_beside_a_hub_checkpoint_is_refused(tmp_path: Path, backbone_model: PeMoEModel, monkeypatch) -> None:
    backbone_model.save_pretrained(tmp_path / "checkpoint", experts_only=True)
    fill_hub_cache(tmp_path / "hub", "me/experts", tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="directory beside the checkpoint"):
        PeMoEModel.from_pretrained("me/experts", cache_dir=tmp_path / "hub")
