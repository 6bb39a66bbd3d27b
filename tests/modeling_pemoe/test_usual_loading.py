"""Guards: the usual ways to load, move and store a transformers model give the same scores, or are refused in one
line that names what was asked for. Every test here is a row of the table in docs/model.md."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import accelerate
import huggingface_hub
import pytest
import torch
from local_hub import LocalHub
from tiny_models import build_tiny_inputs, build_tiny_model
from transformers import BitsAndBytesConfig

from pemoe.modeling_pemoe import PeMoEModel

PARTS = ("text_trunk", "vision_trunk", "experts", "gate", "logit_scale")
FUSED_QKV = {"architecture": "eva02_tiny_patch14_224", "model_args": {"depth": 3, "embed_dim": 64, "num_heads": 2}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved `build_tiny_model()`."""
    directory = tmp_path_factory.mktemp("usual") / "checkpoint"
    build_tiny_model().save_pretrained(directory)
    return directory


@torch.no_grad()
def distance(model: PeMoEModel, reference: PeMoEModel | None = None) -> float:
    """Largest difference of a score, on the scale of cosines, to the tiny model as it was built."""
    reference = build_tiny_model() if reference is None else reference
    inputs, scale = build_tiny_inputs(), reference.logit_scale.exp()
    return float((model(**inputs).logits_per_text - reference(**inputs).logits_per_text).abs().max() / scale)


@pytest.mark.parametrize("dtype", [None, "auto", torch.float32, "float32"])
def test_float32(checkpoint: Path, dtype: object) -> None:
    model = PeMoEModel.from_pretrained(checkpoint, dtype=dtype)
    assert model.dtype == torch.float32 and distance(model) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(checkpoint: Path, dtype: str) -> None:
    model = PeMoEModel.from_pretrained(checkpoint, dtype=dtype)
    assert str(model.dtype) == f"torch.{dtype}" and 0 < distance(model) < 0.02
    assert distance(copy.deepcopy(build_tiny_model()).to(model.dtype), model) == 0
    assert model(**build_tiny_inputs()).text_embeds.dtype == torch.float32


def test_float64(checkpoint: Path) -> None:
    assert distance(PeMoEModel.from_pretrained(checkpoint, dtype=torch.float64)) < 1e-6


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map_on_one_device(checkpoint: Path, device_map: object) -> None:
    assert distance(PeMoEModel.from_pretrained(checkpoint, device_map=device_map)) == 0


@pytest.mark.parametrize("part", [*PARTS[:4], "all"])
def test_disk_offload(checkpoint: Path, tmp_path: Path, part: str) -> None:
    device_map = {"": "disk"} if part == "all" else {**dict.fromkeys(PARTS, "cpu"), part: "disk"}
    model = PeMoEModel.from_pretrained(checkpoint, device_map=device_map, offload_folder=tmp_path / "weights")
    assert any(parameter.is_meta for parameter in model.parameters()) and model.device.type == "cpu"
    assert distance(model) == 0
    model.save_pretrained(tmp_path / "again")
    assert distance(PeMoEModel.from_pretrained(tmp_path / "again")) == 0


def test_disk_offload_of_fused_qkv(tmp_path: Path) -> None:
    model = build_tiny_model(vision_config=FUSED_QKV)
    model.save_pretrained(tmp_path / "checkpoint")
    options = {"device_map": {"": "disk"}, "offload_folder": tmp_path / "weights"}
    assert distance(PeMoEModel.from_pretrained(tmp_path / "checkpoint", **options), model) == 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_tight_memory(checkpoint: Path, tmp_path: Path, share: float) -> None:
    memory = {"cpu": int(share * sum(p.nbytes for p in build_tiny_model().parameters()))}
    options = {"device_map": "auto", "max_memory": memory, "offload_folder": tmp_path}
    model = PeMoEModel.from_pretrained(checkpoint, **options)
    assert "disk" in model.hf_device_map.values()
    assert distance(model) == 0


def test_accelerate_offload(tmp_path: Path) -> None:
    assert distance(accelerate.cpu_offload(build_tiny_model(), execution_device="cpu")) == 0
    assert distance(accelerate.disk_offload(build_tiny_model(), str(tmp_path), execution_device="cpu")) == 0


def test_offloading_a_temperature_alone_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    device_map = {**dict.fromkeys(PARTS, "cpu"), "logit_scale": "disk"}
    with pytest.raises(ValueError, match=r"^device_map: logit_scale .* put it on a device$"):
        PeMoEModel.from_pretrained(checkpoint, device_map=device_map, offload_folder=tmp_path)


def test_changing_an_offloaded_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    model = PeMoEModel.from_pretrained(checkpoint, device_map={"": "disk"}, offload_folder=tmp_path)
    with pytest.raises(ValueError, match=r"^add_platform: parts of the model are offloaded"):
        model.add_platform("infrared", init_from="drone")
    assert "infrared" not in model.config.platforms


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_implementations(checkpoint: Path, attention: str) -> None:
    model = PeMoEModel.from_pretrained(checkpoint, attn_implementation=attention)
    assert model.text_trunk.config._attn_implementation == attention
    assert distance(model) < 1e-6


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention", "unheard_of"])
def test_other_attention_is_refused(checkpoint: Path, attention: str) -> None:
    with pytest.raises(ValueError, match=r"does not support|is not supported") as refusal:
        PeMoEModel.from_pretrained(checkpoint, attn_implementation=attention)
    assert "\n" not in str(refusal.value)


def test_quantization_config_needs_its_package(checkpoint: Path) -> None:
    with pytest.raises(ImportError, match="pip install -U bitsandbytes") as refusal:
        PeMoEModel.from_pretrained(checkpoint, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("option", ["load_in_8bit", "output_attentions"])
def test_unknown_loading_options_are_refused(checkpoint: Path, option: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'$"):
        PeMoEModel.from_pretrained(checkpoint, **{option: True})


def test_saving_in_shards(tmp_path: Path) -> None:
    build_tiny_model().save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert distance(PeMoEModel.from_pretrained(tmp_path)) == 0


def test_pushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny_model()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    with LocalHub(tmp_path / "hub") as hub:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        options = {"repo_id": "me/saved", "token": hub.token, "private": True, "tags": ["kiel"]}
        model.save_pretrained(
            tmp_path / "saved", state_dict=zeros, max_shard_size="100KB", push_to_hub=True, **options
        )
        model.save_pretrained(tmp_path / "other", is_main_process=False, push_to_hub=True, **options)
        repo = hub.repos["model", "me/saved"]
        pushed = {name: content for name, content in repo.files().items() if name != ".gitattributes"}
    assert pushed == {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert repo.private and len([name for name in pushed if name.startswith("model-")]) > 2
    assert "kiel" in pushed["README.md"].decode() and not any((tmp_path / "other").glob("*.json"))


def test_copies_and_moves() -> None:
    model = build_tiny_model()
    assert distance(pickle.loads(pickle.dumps(model))) == 0
    assert distance(copy.deepcopy(model)) == 0
    assert distance(model.to("cpu", torch.float64).float()) < 1e-6
    assert copy.deepcopy(model).half().dtype == torch.float16


def test_state_dict_round_trip() -> None:
    model, other = build_tiny_model(), build_tiny_model(logit_scale_init=1.0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(model.state_dict())
    assert distance(other) == 0


def test_embeddings_of_words() -> None:
    model = build_tiny_model()
    assert model.get_input_embeddings() is model.text_trunk.embeddings.word_embeddings
    assert model.get_output_embeddings() is None
    model.tie_weights()
    assert distance(model) == 0


def test_resizing_the_vocabulary(tmp_path: Path) -> None:
    model = build_tiny_model()
    model.resize_token_embeddings(210)
    assert distance(model) == 0  # the old words keep their places
    model.save_pretrained(tmp_path)
    again = PeMoEModel.from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == 210 and distance(again) == 0
