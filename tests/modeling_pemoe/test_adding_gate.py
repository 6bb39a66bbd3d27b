"""Guards: to add a gate is a class and an entry in `GATES`: a gate of this module configures, builds, scores, saves,
loads, grows and is shared like the shipped ones, and is unknown once the entry is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import build_tiny_inputs, build_tiny_model
from torch import Tensor, nn

from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel
from pemoe.modeling_pemoe.gates_pemoe import GATES, Gate


class LinearGate(Gate):
    """One linear layer, softmax over the experts."""

    def __init__(self, embed_dim: int, hidden_dim: int, num_experts: int) -> None:
        super().__init__(embed_dim, hidden_dim, num_experts)
        self.output = nn.Linear(embed_dim, num_experts)

    def active_logits(self, text_features: Tensor, active: list[int]) -> Tensor:
        return self.output(text_features.to(self.output.weight.dtype))[:, active]

    @torch.no_grad()
    def take_over(self, smaller: Gate) -> None:
        for name, old in smaller.output.named_parameters():
            self.output.get_parameter(name).zero_()[: smaller.num_experts] = old


@pytest.fixture
def linear_gate() -> Iterator[None]:
    GATES["linear"] = LinearGate
    yield
    del GATES["linear"]


@pytest.mark.usefixtures("linear_gate")
def test_added_gate_goes_end_to_end(tmp_path: Path) -> None:
    model, inputs = build_tiny_model(gate="linear"), build_tiny_inputs()
    assert isinstance(model.gate, LinearGate)
    output = model(**inputs, place_id=torch.arange(4))
    assert output.gate_weights.std() > 0
    assert torch.allclose(output.gate_weights.sum(1), torch.ones(4))
    output.loss.backward()
    assert model.gate.output.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    again = PeMoEModel.from_pretrained(tmp_path)
    assert again.config.gate == "linear" and isinstance(again.gate, LinearGate)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits_per_text, output.logits_per_text)


@pytest.mark.usefixtures("linear_gate")
def test_added_gate_is_set_grown_and_shared(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    tiny_model.set_gate("linear")
    before = tiny_model(**tiny_inputs).gate_weights
    tiny_model.add_platform("infrared", init_from="drone")
    after = tiny_model(**tiny_inputs).gate_weights
    assert torch.allclose(after[:, :3], before) and torch.equal(after[:, 3], torch.zeros(4))
    assert torch.equal(tiny_model.share_trunks()(**tiny_inputs).gate_weights, after)


def test_gate_that_is_not_in_the_registry_is_refused_with_the_known_names(tiny_model: PeMoEModel) -> None:
    with pytest.raises(Exception, match="softmax, uniform"):
        PeMoEConfig.preset("tiny", gate="linear")
    with pytest.raises(ValueError, match="softmax, uniform"):
        tiny_model.set_gate("linear")
    assert list(GATES) == ["softmax", "uniform"]
