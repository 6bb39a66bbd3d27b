"""Gates: how much each platform expert counts for a query."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig


class Gate(nn.Module):
    """Softmax over the active experts' logits; to add a gate, write `active_logits` and an entry of `GATES`.

    `embed_dim` is the width D of the shared text feature, `num_experts` E.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts

    def active_logits(self, text_features: Tensor, active: list[int]) -> Tensor:
        """Logits of the A active experts, `(Q, A)`; arguments as in `forward`."""
        raise NotImplementedError

    def take_over(self, smaller: Gate) -> None:
        """Start from a gate of fewer experts, the added ones last; without parameters there is nothing to do."""

    def forward(self, text_features: Tensor, active: list[int]) -> tuple[Tensor, Tensor]:
        """`gate_weights` and `gate_logits`, `(Q, E)` fp32, of shared text features `(Q, D)` of any float dtype.

        `active` are the places on the E axis that take part: their weights sum to 1; the others' are exactly 0, and
        their logits -inf.
        """
        logits = self.active_logits(text_features, active).float()
        weights = logits.softmax(-1)
        if len(active) == self.num_experts:
            return weights, logits
        index = torch.tensor(active, device=weights.device).expand(weights.shape[0], -1)
        all_weights = weights.new_zeros(weights.shape[0], self.num_experts).scatter(1, index, weights)  # (Q, E)
        all_logits = logits.new_full((logits.shape[0], self.num_experts), float("-inf")).scatter(1, index, logits)
        return all_weights, all_logits


class RowLinear(nn.Linear):
    """A linear layer of which a call uses the named rows: one that is left out changes no bit of the others."""

    def forward(self, inputs: Tensor, rows: list[int]) -> Tensor:
        """`(B, W)` -> `(B, len(rows))`."""
        return nn.functional.linear(inputs, self.weight[rows], self.bias[rows])


class SoftmaxGate(Gate):
    """Two-layer MLP on the shared text feature, softmax over the experts (PE-MoE, Sec. 3.2).

    g(q) = softmax(W2 gelu(W1 t_shared + b1) + b2)

    Example:
        >>> weights, logits = SoftmaxGate(8, 4, 3)(torch.zeros(2, 8), active=[0, 1, 2])
        >>> weights.shape
        torch.Size([2, 3])
    """

    def __init__(self, embed_dim: int, hidden_dim: int, num_experts: int) -> None:
        super().__init__(embed_dim, hidden_dim, num_experts)
        self.hidden = nn.Linear(embed_dim, hidden_dim)
        self.activation = nn.GELU()
        self.output = RowLinear(hidden_dim, num_experts)

    def active_logits(self, text_features: Tensor, active: list[int]) -> Tensor:
        """`W2 gelu(W1 t_shared + b1) + b2` of the active experts."""
        hidden = self.activation(self.hidden(text_features.to(self.output.weight.dtype)))
        return self.output(hidden, active)

    @torch.no_grad()
    def take_over(self, smaller: Gate) -> None:
        """Copy the hidden layer and the rows of the experts there were; the added ones' rows are 0."""
        if isinstance(smaller, SoftmaxGate):
            self.hidden.load_state_dict(smaller.hidden.state_dict())
            self.output.weight.zero_()[: smaller.num_experts] = smaller.output.weight
            self.output.bias.zero_()[: smaller.num_experts] = smaller.output.bias


class UniformGate(Gate):
    """Static ensemble: every active expert weighs the same; no parameters, logits are zero."""

    def active_logits(self, text_features: Tensor, active: list[int]) -> Tensor:
        """Zeros."""
        return text_features.new_zeros(text_features.shape[0], len(active))


GATES = {"softmax": SoftmaxGate, "uniform": UniformGate}


def build_gate(config: PreTrainedConfig) -> Gate:
    """The configuration's gate; a single expert needs none and gets the uniform one (weight 1, logit 0)."""
    gate_class = UniformGate if config.num_experts == 1 else GATES[config.gate]
    return gate_class(config.embed_dim, config.gate_hidden_dim, config.num_experts)
