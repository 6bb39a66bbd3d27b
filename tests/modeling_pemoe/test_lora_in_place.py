"""Guards: an adapter on an expert that is there moves nothing until it learns, touches no other expert, reloads bit
for bit in that expert's place, merges to the same vectors, and is switched off to the very expert it started from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import build_tiny_inputs, build_tiny_model
from transformers import AutoModel

from pemoe.modeling_pemoe import PeMoEModel

NAMES = ("text_embeds", "image_embeds")


def embed(model: PeMoEModel, *experts: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        output = model.eval()(**build_tiny_inputs(), experts=list(experts) or None)
    return {name: tensor for name, tensor in output.items() if tensor is not None}


def teach(model: PeMoEModel, name: str) -> None:
    """Set the matrices of a LoRA platform as if trained."""
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for key, parameter in model.experts[name].named_parameters():
            if "lora_" in key or key == "logit_scale":
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    build_tiny_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapted(base: Path) -> PeMoEModel:
    model = PeMoEModel.from_pretrained(base)
    model.adapt_platform("drone", lora_rank=4)
    teach(model, "drone")
    return model


def test_nothing_moves_before_it_learns(base: Path) -> None:
    model = PeMoEModel.from_pretrained(base)
    before = embed(model)
    model.adapt_platform("drone", lora_rank=4)
    after = embed(model)
    assert model.lora_platforms == ["drone"] and model.config.masked_platforms == []
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_moves_its_own_expert_alone(base: Path, adapted: PeMoEModel) -> None:
    before, after = embed(PeMoEModel.from_pretrained(base)), embed(adapted)
    for name in NAMES:
        assert torch.equal(before[name][:, [0, 2]], after[name][:, [0, 2]])
        assert not torch.equal(before[name][:, 1], after[name][:, 1])
    assert torch.equal(before["gate_weights"], after["gate_weights"])


def test_its_folder_reloads_bit_for_bit(base: Path, adapted: PeMoEModel) -> None:
    adapted.save_platform("drone", base.parent / "drone")
    for load in (PeMoEModel.from_pretrained, AutoModel.from_pretrained):
        again = load(base.parent / "drone")
        assert again.lora_platforms == ["drone"] and list(again.experts) == ["satellite", "drone", "ground"]
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in adapted.state_dict().items())
    with pytest.raises(ValueError, match=r"as it is in its base /.*/base, which carries an adapter here; load that"):
        again.load_platform(base.parent / "drone")


def test_a_new_platform_of_the_same_expert_is_loaded_before_it(base: Path, adapted: PeMoEModel) -> None:
    adapted.save_platform("drone", base.parent / "drone")
    other = PeMoEModel.from_pretrained(base)
    other.add_platform("infrared", "drone", lora_rank=2)
    other.save_platform("infrared", base.parent / "infrared")
    both = PeMoEModel.from_pretrained(base.parent / "infrared")
    both.load_platform(base.parent / "drone")
    assert both.lora_platforms == ["drone", "infrared"]
    both.merge_platform("infrared")  # the expert it started from is no plain one any more
    both.merge_platform("drone")
    assert both.lora_platforms == []
    plain = embed(PeMoEModel.from_pretrained(base), "drone")
    assert all((embed(both, "infrared")[name] - plain[name]).abs().max() <= 1e-6 for name in NAMES)


def test_merged_it_gives_the_same_vectors(base: Path, adapted: PeMoEModel) -> None:
    expected, keys = embed(adapted), set(PeMoEModel.from_pretrained(base).state_dict())
    adapted.merge_platform("drone")
    found = embed(adapted)
    assert set(adapted.state_dict()) == keys
    assert all((found[name] - expected[name]).abs().max() <= 1e-6 for name in NAMES)


def test_switched_off_it_is_the_expert_it_started_from(base: Path, adapted: PeMoEModel) -> None:
    plain, taught = embed(PeMoEModel.from_pretrained(base), "drone"), embed(adapted, "drone")
    adapted.train_experts([])
    with adapted.without_adapter("drone"):
        found = embed(adapted, "drone")
    assert all(torch.equal(found[name], plain[name]) for name in NAMES)
    assert all(torch.equal(embed(adapted, "drone")[name], taught[name]) for name in NAMES)
    assert not any(parameter.requires_grad for parameter in adapted.experts["drone"].parameters())


def test_the_adapters_alone_are_named(adapted: PeMoEModel) -> None:
    names = set(adapted.adapter_state_dict())
    assert names == {n for n in adapted.state_dict() if ".lora_" in n} | {"experts.drone.logit_scale"}
    assert build_tiny_model().adapter_state_dict() == {}


def test_wrong_requests_are_refused_in_one_line(adapted: PeMoEModel) -> None:
    requests = [
        (lambda: adapted.adapt_platform("x"), "adapt_platform: 'x' is not among the platforms"),
        (lambda: adapted.adapt_platform("drone"), "'drone' is a LoRA platform; merge_platform it first"),
        (lambda: adapted.adapt_platform("ground", lora_rank=0), "lora_rank: 0 must be at least 1"),
        (lambda: adapted.without_adapter("ground").__enter__(), "'ground' is not among the LoRA platforms"),
    ]
    for request, words in requests:
        with pytest.raises(ValueError, match=words) as error:
            request()
        assert "\n" not in str(error.value)
