"""Guards: a model that shares another's trunks holds the same trunk modules and experts of its own, builds nothing at
random, and equals a model built from scratch on the same weights."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import build_tiny_inputs, build_tiny_model

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.modeling_pemoe.gates_pemoe import UniformGate


def build_unified_anew(model: PeMoEModel) -> PeMoEModel:
    """The unified model as a random model that the weights are loaded into."""
    config = copy.deepcopy(model.config)
    config.platforms, config.masked_platforms = ["all"], []
    single = PeMoEModel(config)
    single.load_state_dict({name: t for name, t in model.state_dict().items() if "_trunk." in name}, strict=False)
    single.experts["all"].load_state_dict(next(iter(model.experts.values())).state_dict())
    return single.eval()


def trunk_pointers(model: PeMoEModel) -> list[int]:
    return [p.data_ptr() for trunk in (model.text_trunk, model.vision_trunk) for p in trunk.parameters()]


def test_unified_model_equals_one_built_anew(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    unified, anew = tiny_model.share_trunks(["all"]), build_unified_anew(tiny_model)
    first, second = unified.state_dict(), anew.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert unified.config.to_dict() == anew.config.to_dict()
    assert isinstance(unified.gate, UniformGate)
    with torch.no_grad():
        assert torch.equal(unified(**tiny_inputs).logits_per_text, anew(**tiny_inputs).logits_per_text)


def test_trunks_are_shared_and_the_rest_is_not(tiny_model: PeMoEModel) -> None:
    for other in (tiny_model.share_trunks(), tiny_model.share_trunks(["drone", "ground"])):
        assert other.text_trunk is tiny_model.text_trunk and other.vision_trunk is tiny_model.vision_trunk
        own = [p.data_ptr() for name, p in other.named_parameters() if "_trunk." not in name]
        theirs = [p.data_ptr() for name, p in tiny_model.named_parameters() if "_trunk." not in name]
        assert len(own) == len(set(own)) and not set(own) & set(theirs)
        layer = other.experts["ground"].text_layers[0]
        assert layer.attention.self.config is tiny_model.text_trunk.config
        assert other.config is not tiny_model.config


def test_copy_scores_as_the_original_and_trains_alone(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    other = tiny_model.share_trunks()
    with torch.no_grad():
        assert torch.equal(other(**tiny_inputs).logits_per_text, tiny_model(**tiny_inputs).logits_per_text)
    optimizer = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=0.1)
    other.train()(**tiny_inputs, place_id=torch.arange(4)).loss.backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_model.state_dict().items())
    assert not torch.equal(other.logit_scale, tiny_model.logit_scale)


def test_every_expert_is_a_copy_of_the_first_and_none_is_masked() -> None:
    model = build_tiny_model(masked_platforms=["ground"])
    other = model.share_trunks(["drone", "infrared"])
    assert other.config.platforms == ["drone", "infrared"] and other.config.masked_platforms == []
    assert model.config.masked_platforms == ["ground"]
    for expert in other.experts.values():
        assert all(torch.equal(t, model.experts["satellite"].state_dict()[n]) for n, t in expert.state_dict().items())
    assert other(**build_tiny_inputs()).gate_weights.shape == (4, 2)


@pytest.mark.parametrize("platforms", [None, ["all"], ["drone", "ground"]])
def test_no_global_random_number_is_drawn(tiny_model: PeMoEModel, platforms: list[str] | None) -> None:
    before = torch.get_rng_state()
    tiny_model.share_trunks(platforms)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("platforms", [None, ["all"], ["drone", "ground"]])
def test_modes_and_dtypes_are_the_originals(platforms: list[str] | None, training: bool) -> None:
    model = build_tiny_model().train(training)
    for trunk in (model.text_trunk, model.vision_trunk):
        trunk.to(torch.bfloat16)
    other = model.share_trunks(platforms)
    assert other.training == other.gate.training == training
    assert all(expert.training == training for expert in other.experts.values())
    assert not other.text_trunk.training and not other.vision_trunk.training
    assert other.dtype_of_trunk == torch.bfloat16 and other.dtype_of_experts == torch.float32
    assert {p.dtype for p in other.gate.parameters()} <= {torch.float32}


@pytest.mark.parametrize("platforms", [[], ["a.b"], ["drone", "drone"]])
def test_unusable_names_are_refused(tiny_model: PeMoEModel, platforms: list[str]) -> None:
    with pytest.raises(ValueError, match="platforms"):
        tiny_model.share_trunks(platforms)


def test_setting_a_gate_changes_module_and_config_together(tiny_model: PeMoEModel) -> None:
    tiny_model.set_gate("uniform")
    assert isinstance(tiny_model.gate, UniformGate) and tiny_model.config.gate == "uniform"
    with pytest.raises(ValueError, match="gate"):
        tiny_model.set_gate("top2")
    assert isinstance(tiny_model.gate, UniformGate) and tiny_model.config.gate == "uniform"
