"""Gates: how much each platform expert counts for a query."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SoftmaxGate(nn.Module):
    """Two-layer MLP on the shared text feature, softmax over the experts (PE-MoE, Sec. 3.2).

    g(q) = softmax(W2 gelu(W1 t_shared + b1) + b2)

    Args:
        embed_dim: width D of the shared text feature.
        hidden_dim: width of the hidden layer.
        num_experts: E.

    Example:
        >>> weights, logits = SoftmaxGate(8, 4, 3)(torch.zeros(2, 8), active=[0, 1, 2])
        >>> weights.shape
        torch.Size([2, 3])
    """

    def __init__(self, embed_dim: int, hidden_dim: int, num_experts: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(embed_dim, hidden_dim)
        self.activation = nn.GELU()
        self.output = nn.Linear(hidden_dim, num_experts)

    def forward(self, text_features: Tensor, active: list[int]) -> tuple[Tensor, Tensor]:
        """Weigh the experts.

        Args:
            text_features: shared text features, `(Q, D)`, any float dtype.
            active: places on the E axis that take part; the others weigh exactly 0.

        Returns:
            `gate_weights (Q, E)` fp32, rows sum to 1, and `gate_logits (Q, E)` fp32, -inf where not active.
        """
        hidden = self.activation(self.hidden(text_features.to(self.hidden.weight.dtype)))
        # only the active rows are multiplied: an added, masked platform changes no bit of the others
        active_logits = nn.functional.linear(hidden, self.output.weight[active], self.output.bias[active]).float()
        return _scatter(active_logits.softmax(-1), active_logits, active, self.output.out_features)


class UniformGate(nn.Module):
    """Static ensemble: every active expert weighs the same; no parameters, logits are zero.

    Args:
        embed_dim, hidden_dim: unused widths, so that all gates are built alike.
        num_experts: E.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts

    def forward(self, text_features: Tensor, active: list[int]) -> tuple[Tensor, Tensor]:
        """Equal weights; shapes and dtypes as in `SoftmaxGate.forward`."""
        logits = torch.zeros(len(text_features), len(active), device=text_features.device)
        return _scatter(torch.full_like(logits, 1 / len(active)), logits, active, self.num_experts)


def _scatter(weights: Tensor, logits: Tensor, active: list[int], num_experts: int) -> tuple[Tensor, Tensor]:
    if len(active) == num_experts:
        return weights, logits
    index = torch.tensor(active, device=weights.device).expand(len(weights), -1)
    all_weights = weights.new_zeros(len(weights), num_experts).scatter(1, index, weights)  # (Q, E)
    all_logits = logits.new_full((len(logits), num_experts), float("-inf")).scatter(1, index, logits)
    return all_weights, all_logits


GATES = {"softmax": SoftmaxGate, "uniform": UniformGate}


def build_gate(name: str, embed_dim: int, hidden_dim: int, num_experts: int) -> nn.Module:
    """The gate of that name; a single expert needs none and gets the uniform one (weight 1, logit 0).

    Raises:
        ValueError: unknown name.
    """
    if name not in GATES:
        raise ValueError(f"gate: {name!r} is unknown, use one of {', '.join(GATES)}")
    gate_class = UniformGate if num_experts == 1 else GATES[name]
    return gate_class(embed_dim, hidden_dim, num_experts)
