"""Guards: a LoRA platform moves nothing that was there; its folder of a few MB reloads bit for bit on full and
experts-only bases, through AutoModel without the package, `load_platform` and stock peft; merged it gives the same
vectors; another base, a broken folder and a missing peft are refused in one line, the model unchanged."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_backbones import write_open_clip_backbone, write_text_backbone
from tiny_models import build_tiny_inputs, build_tiny_model
from transformers import AutoModel

from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel
from pemoe.modeling_pemoe.lora_pemoe import _target_pattern
from pemoe.trainers.experiments.fresh_process import run_without_package

NAMES = ("text_embeds", "image_embeds")
RELOAD = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModel
inputs, *folders = sys.argv[1:]
for folder in folders:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    assert model.lora_platforms == ["infrared"] and model.config.masked_platforms == ["infrared"]
    with torch.no_grad():
        output = model(**load_file(inputs), experts=["infrared"])
    save_file({name: output[name].contiguous() for name in ("text_embeds", "image_embeds")}, folder + ".outputs")
model = AutoModel.from_pretrained(sys.argv[2] + "/../base", trust_remote_code=True)
sys.modules["peft"] = None
try:
    model.add_platform("infrared", "drone", lora_rank=2)
except ImportError as error:
    print(error)
"""


def embed(model: torch.nn.Module, experts: list[str] | None = None, image_size: int = 56) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        output = model(**build_tiny_inputs(image_size=image_size), experts=experts)
    return {name: tensor for name, tensor in output.items() if tensor is not None}


def add_taught(model: PeMoEModel, name: str = "infrared", init_from: str = "drone") -> PeMoEModel:
    """Add a LoRA platform whose matrices are as if trained."""
    model.add_platform(name, init_from, lora_rank=4)
    generator = torch.Generator().manual_seed(len(model.config.platforms))
    with torch.no_grad():
        for key, parameter in model.experts[name].named_parameters():
            if "lora_" in key or key == "logit_scale":
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    build_tiny_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def folder(base: Path) -> Path:
    add_taught(PeMoEModel.from_pretrained(base)).save_platform("infrared", base.parent / "infrared")
    return base.parent / "infrared"


def test_a_new_platform_moves_nothing_and_starts_as_a_copy(base: Path) -> None:
    model = PeMoEModel.from_pretrained(base)
    before, drone = embed(model), embed(model, ["drone"])
    model.add_platform("infrared", "drone", lora_rank=4)
    after, infrared = embed(model), embed(model, ["infrared"])
    assert torch.equal(before["logits_per_text"], after["logits_per_text"])
    assert all(torch.equal(before[name], after[name][:, :3]) for name in NAMES)
    assert all(torch.equal(drone[name], infrared[name]) for name in NAMES)
    assert torch.equal(after["gate_weights"][:, 3], torch.zeros(4))
    assert model.lora_platforms == ["infrared"]


def test_only_the_adapter_learns(base: Path) -> None:
    model = add_taught(PeMoEModel.from_pretrained(base))
    model.train_experts(["infrared"])
    loss = model(**build_tiny_inputs(), place_id=torch.arange(4), experts=["infrared"]).loss
    loss.backward()
    taught = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(name.startswith("experts.infrared.") for name in taught)
    kinds = {name.split(".")[-3] if "lora_" in name else name.split(".")[-1] for name in taught}
    assert kinds == {"lora_A", "lora_B", "logit_scale"}
    linear = [m for m in model.experts["drone"].modules() if isinstance(m, torch.nn.Linear)]
    assert len(taught) == 2 * len(linear) + 1
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in taught)


def test_a_fused_qkv_is_left_out_since_timm_does_not_call_it(tmp_path: Path) -> None:
    """timm multiplies by such a layer's weight itself: an adapter there would never learn."""
    model = build_backbone_model(tmp_path)
    assert model.experts["drone"].vision_blocks[0].attn.qkv is not None
    model = add_taught(model)
    loss = model(**build_tiny_inputs(image_size=196), place_id=torch.arange(4), experts=["infrared"]).loss
    loss.backward()
    matrices = [p for name, p in model.named_parameters() if "lora_" in name]
    assert matrices and all(parameter.grad is not None for parameter in matrices)


def test_at_paper_size_rank_8_is_a_few_mb() -> None:
    with torch.device("meta"):
        expert = PeMoEModel(PeMoEConfig.preset("paper")).experts["drone"]
    pattern = re.compile(_target_pattern(expert, "infrared"))
    linear = [module for name, module in expert.named_modules() if pattern.fullmatch(name)]
    megabytes = sum(8 * (layer.in_features + layer.out_features) for layer in linear) * 4 / 1e6
    assert 3 < megabytes < 5
    assert f"{megabytes:.1f} MB" in (Path(__file__).parents[2] / "docs" / "finetune.md").read_text()


def test_folder_holds_the_adapter_alone(base: Path, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "processor_config.json",
        "modules.json",
        "sentence_pemoe_config.json",
        "config_sentence_transformers.json",
    }
    assert sum(path.stat().st_size for path in folder.glob("*.json")) < 4000  # they only point at the base
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all(
        re.search(r"^base_model\.model\.experts\.infrared\..*(lora_[AB]\.weight|logit_scale)$", n) for n in tensors
    )
    fields = json.loads((folder / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str(base) and fields["peft_type"] == "LORA"


def build_backbone_model(directory: Path) -> PeMoEModel:
    torch.manual_seed(0)
    text = write_text_backbone(directory / "backbones" / "text")
    vision = write_open_clip_backbone(directory / "backbones" / "vision")
    return PeMoEModel.from_backbones(str(text), str(vision), image_size=196, gate_hidden_dim=8)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A LoRA folder beside a full and beside an experts-only base, read by one process without the package."""
    root, folders = tmp_path_factory.mktemp("elsewhere"), []
    save_file(build_tiny_inputs(image_size=196), root / "inputs")
    for kind in ("full", "experts_only"):
        base = root / kind / "base"
        build_backbone_model(root / kind).save_pretrained(base, experts_only=kind == "experts_only")
        model = add_taught(PeMoEModel.from_pretrained(base))
        model.save_platform("infrared", root / kind / "infrared")
        outputs = embed(model, ["infrared"], image_size=196)
        save_file({name: outputs[name].contiguous() for name in NAMES}, root / kind / "infrared.original")
        folders.append(str(root / kind / "infrared"))
    return root, run_without_package(RELOAD, str(root / "inputs"), *folders)


@pytest.mark.parametrize("kind", ["full", "experts_only"])
def test_automodel_adds_the_platform_without_the_package(elsewhere: tuple[Path, str], kind: str) -> None:
    found, original = (load_file(elsewhere[0] / kind / f"infrared.{name}") for name in ("outputs", "original"))
    assert all(torch.equal(found[name], original[name]) for name in NAMES)


def test_without_peft_one_line_says_what_to_install(elsewhere: tuple[Path, str]) -> None:
    assert elsewhere[1] == "LoRA platforms are peft adapters: run `pip install peft`\n"


@pytest.mark.parametrize(
    "load", [PeMoEModel.from_pretrained, lambda path, **options: AutoModel.from_pretrained(path, **options)]
)
def test_both_classes_load_the_folder(folder: Path, load: Callable) -> None:
    expected = embed(add_taught(PeMoEModel.from_pretrained(folder.parent / "base")), ["infrared"])
    found = embed(load(folder), ["infrared"])
    assert all(torch.equal(found[name], expected[name]) for name in NAMES)
    assert load(folder, dtype=torch.bfloat16).experts["infrared"].logit_scale.dtype == torch.bfloat16
    assert load(folder, dtype=torch.float16).lora_platforms == ["infrared"]


def test_several_are_loaded_one_after_another(base: Path, folder: Path) -> None:
    other = add_taught(PeMoEModel.from_pretrained(base), "thermal", "ground")
    other.save_platform("thermal", base.parent / "thermal")
    model = PeMoEModel.from_pretrained(folder)
    assert model.load_platform(base.parent / "thermal") == "thermal"
    assert (
        model.config.platforms[3:] == model.config.masked_platforms == model.lora_platforms == ["infrared", "thermal"]
    )
    assert torch.equal(embed(model, ["thermal"])["text_embeds"], embed(other, ["thermal"])["text_embeds"])
    assert torch.equal(embed(model)["logits_per_text"], embed(PeMoEModel.from_pretrained(base))["logits_per_text"])


def test_a_copy_on_the_same_trunks_has_it_too(folder: Path) -> None:
    model = PeMoEModel.from_pretrained(folder)
    copied, expected = model.share_trunks(), embed(model, ["infrared"])
    model.merge_platform("infrared")
    assert copied.lora_platforms == ["infrared"]
    assert all(torch.equal(embed(copied, ["infrared"])[name], expected[name]) for name in NAMES)


def test_merged_and_saved_it_gives_the_same_vectors(folder: Path) -> None:
    model = PeMoEModel.from_pretrained(folder)
    expected = embed(model, ["infrared"])
    model.save_pretrained(folder.parent / "full")
    assert model.lora_platforms == ["infrared"]
    model.merge_platform("infrared")
    saved = PeMoEModel.from_pretrained(folder.parent / "full")
    for merged in (model, saved):
        found = embed(merged, ["infrared"])
        assert merged.lora_platforms == []
        assert all((found[name] - expected[name]).abs().max() <= 1e-6 for name in NAMES)
        assert torch.equal(found["logit_scale"], expected["logit_scale"])
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_model_saved_over_the_folder_is_read_and_not_the_adapter(folder: Path, tmp_path: Path) -> None:
    model = PeMoEModel.from_pretrained(shutil.copytree(folder, tmp_path / "one")).eval()
    model.merge_platform("infrared")
    model.save_pretrained(tmp_path / "one")
    again = PeMoEModel.from_pretrained(tmp_path / "one").eval()
    assert again.lora_platforms == []
    inputs = build_tiny_inputs()
    with torch.no_grad():
        assert torch.equal(again(**inputs).image_embeds, model(**inputs).image_embeds)


def test_experts_only_is_written_merged(tmp_path: Path) -> None:
    model = add_taught(build_backbone_model(tmp_path))
    expected = embed(model, ["infrared"], image_size=196)
    model.save_pretrained(tmp_path / "experts", experts_only=True)
    found = embed(PeMoEModel.from_pretrained(tmp_path / "experts"), ["infrared"], image_size=196)
    assert all((found[name] - expected[name]).abs().max() <= 1e-6 for name in NAMES)


def test_stock_peft_reads_the_folder(base: Path, folder: Path) -> None:
    model = PeMoEModel.from_pretrained(base)
    model.add_platform("infrared", "drone")
    found = embed(PeftModel.from_pretrained(model, folder), ["infrared"])
    expected = embed(PeMoEModel.from_pretrained(folder), ["infrared"])
    assert all((found[name] - expected[name]).abs().max() <= 1e-6 for name in NAMES)


def test_an_adapter_of_stock_peft_loads_through_both(base: Path, tmp_path: Path) -> None:
    pattern = r"experts\.drone\.text_layers\.\d+\.attention\.self\.(query|value)"
    config = LoraConfig(r=4, target_modules=pattern, init_lora_weights=False)
    stock = get_peft_model(PeMoEModel.from_pretrained(base), config)
    stock.save_pretrained(tmp_path / "stock")
    plain, expected = embed(PeMoEModel.from_pretrained(base)), embed(stock.eval())
    assert not torch.equal(plain["text_embeds"], expected["text_embeds"])
    for model in (
        PeftModel.from_pretrained(PeMoEModel.from_pretrained(base), tmp_path / "stock"),
        AutoModel.from_pretrained(tmp_path / "stock"),
    ):
        assert torch.equal(embed(model)["text_embeds"], expected["text_embeds"])


def spoil_base(folder: Path) -> None:
    model = PeMoEModel.from_pretrained(folder.parent / "base")
    with torch.no_grad():
        model.experts["drone"].visual_projection.weight[0, 0] += 1
    model.save_pretrained(folder.parent / "base")


def cut_weights(folder: Path) -> None:
    content = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(content[: len(content) // 2])


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_base, r"infrared: was trained on another 'drone' expert than this model's; load its base /.*/base$"),
        (cut_weights, r"adapter_model\.safetensors cannot be read .*; save or download it again"),
        (pickle_weights, r"holds no adapter_model\.safetensors; weights in another format are not read"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "names no base model"),
        (drop_a_tensor, r"1 adapter weights do not fit platform 'infrared', first "),
        (lambda folder: shutil.rmtree(folder.parent / "base"), "base"),
    ],
)
def test_a_spoilt_folder_is_refused(folder: Path, spoil: Callable, words: str) -> None:
    spoil(folder)
    with pytest.raises((OSError, ValueError), match=words) as error:
        PeMoEModel.from_pretrained(folder)
    assert words == "base" or "\n" not in str(error.value)  # where the base is gone transformers speaks


def test_a_refused_folder_leaves_the_model_as_it_was(base: Path, folder: Path) -> None:
    drop_a_tensor(folder)
    model = PeMoEModel.from_pretrained(base)
    before = json.dumps(model.config.to_dict(), default=str)
    with pytest.raises(ValueError, match="do not fit"):
        model.load_platform(folder)
    assert list(model.experts) == ["satellite", "drone", "ground"] and model.gate.num_experts == 3
    assert json.dumps(model.config.to_dict(), default=str) == before


def test_wrong_requests_are_refused_in_one_line(base: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = PeMoEModel.from_pretrained(folder)
    stock = folder.parent / "stock"
    get_peft_model(PeMoEModel.from_pretrained(base), LoraConfig(target_modules=["query"])).save_pretrained(stock)
    requests: list[tuple[Callable, str]] = [
        (lambda: model.add_platform("x", "drone", lora_rank=0), "lora_rank: 0 must be at least 1"),
        (lambda: model.add_platform("x", "infrared", lora_rank=2), "'infrared' is a LoRA platform; merge_platform it"),
        (lambda: model.add_platform("drone", "drone", lora_rank=2), "no name twice"),
        (lambda: model.add_platform("a.b", "drone", lora_rank=2), "'a.b' is no platform name"),
        (lambda: model.load_platform(folder), "the model has a platform 'infrared' already"),
        (lambda: model.load_adapter(str(folder), "other"), "holds the platform 'infrared', not 'other'"),
        (lambda: model.load_platform(base), "holds no adapter_config.json"),
        (lambda: model.load_platform(stock), "is no PE-MoE platform's; use load_adapter"),
        (lambda: model.save_platform("drone", base), r"'drone' is not among the LoRA platforms \['infrared'\]"),
        (lambda: model.merge_platform("x"), "'x' is not among the LoRA platforms"),
        (lambda: add_taught(build_tiny_model()).save_platform("infrared", base), "names its base: save or publish"),
    ]
    for request, words in requests:
        with pytest.raises((ValueError, OSError), match=words) as error:
            request()
        assert "\n" not in str(error.value)
    assert list(model.experts) == ["satellite", "drone", "ground", "infrared"]
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="run `pip install peft`"):
        PeMoEModel.from_pretrained(base).load_platform(folder)
