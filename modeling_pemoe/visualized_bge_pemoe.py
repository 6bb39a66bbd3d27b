"""Image path "visualized_bge": an image's patches, projected to the text encoder's width and read by it as a sentence.

The way of VISTA (Zhou et al. 2024, arXiv:2406.04292, Sec. 3.1) and of the winners' public code, split like the rest of
the model: the expert's image tail and projection, the shared text trunk, the expert's text layers, their CLS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


class PatchProjection(nn.Module):
    """Linear and LayerNorm, patch by patch: `(B, N, W)` -> `(B, N, D)`.

    Example:
        >>> PatchProjection(width=8, embed_dim=4)(torch.zeros(2, 9, 8)).shape
        torch.Size([2, 9, 4])
    """

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Project the patches of B images."""
        return self.norm(self.linear(patches))


def encode_patches(
    text_trunk: PreTrainedModel,
    prompt_ids: list[int],
    patches: Tensor,
    checkpoint: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Token states at the end of the text trunk of `[first, patch 1, ..., patch N, last]`; no padding, so no mask.

    Positions and token types are those that the trunk gives a sentence of N + 2 tokens (XLM-R's begin at its padding
    id + 1). Gradients reach the patches through a frozen trunk too.

    Args:
        text_trunk: its embeddings and layers run one by one.
        prompt_ids: the first and the last token.
        patches: `(B, N, D)`, in the width of the trunk's embeddings.
        checkpoint: called with a layer and its arguments while the trunk is in eval mode, as a frozen one always is:
            its layers would not save memory themselves then. None keeps all that backward needs.

    Returns:
        `(B, 1 + N + 1, D)`.
    """
    first, last = text_trunk.get_input_embeddings()(torch.tensor(prompt_ids, device=patches.device))  # (D,) each
    ends = [token.expand(len(patches), 1, -1) for token in (first, last)]  # (B, 1, D) each
    hidden = text_trunk.embeddings(inputs_embeds=torch.cat([ends[0], patches.to(first), ends[1]], dim=1))
    for layer in text_trunk.encoder.layer:
        uses_own = checkpoint is None or text_trunk.training
        hidden = layer(hidden, None) if uses_own else checkpoint(layer, hidden, None)
    return hidden.to(patches.device)


def check_positions(config: PreTrainedConfig, num_patches: int) -> None:
    """Refuse (ValueError, one line) images of more patches than the text encoder has positions for."""
    tokens, longest = num_patches + 2, config.longest_sequence
    if tokens > longest:
        what = f"{config.image_size} px are {num_patches} patches, with their two ends {tokens} tokens"
        advice = "use a smaller image_size or image_path 'projection'"
        raise ValueError(f"image_path: {what}, and the text encoder has {longest} positions; {advice}")
