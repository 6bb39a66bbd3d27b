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
    text_trunk: PreTrainedModel, prompt_ids: list[int], patches: Tensor, run_layer: Callable[..., Tensor]
) -> Tensor:
    """Token states at the end of the text trunk of `[first, patch 1, ..., patch N, last]`; no padding, so no mask.

    Positions and token types are those that the trunk gives a sentence of N + 2 tokens (XLM-R's begin at its padding
    id + 1). Gradients reach the patches through a frozen trunk too.

    Args:
        text_trunk: its embeddings and layers are run one by one: a frozen one is in eval mode, where its layers would
            not save memory by checkpoints themselves.
        prompt_ids: the first and the last token.
        patches: `(B, N, D)`, in the width of the trunk's embeddings.
        run_layer: called with the number of a layer, the layer and its inputs.

    Returns:
        `(B, 1 + N + 1, D)`, on the device of the patches.
    """
    first, last = text_trunk.get_input_embeddings()(torch.tensor(prompt_ids, device=patches.device))  # (D,) each
    batch_size = patches.shape[0]  # `len` would make it a constant of exported graphs
    ends = [token.expand(batch_size, 1, -1) for token in (first, last)]  # (B, 1, D) each
    hidden = text_trunk.embeddings(inputs_embeds=torch.cat([ends[0], patches.to(first), ends[1]], dim=1))
    for number, layer in enumerate(text_trunk.encoder.layer):
        hidden = run_layer(number, layer, hidden, None)
    return hidden.to(patches.device)


def check_positions(config: PreTrainedConfig, num_patches: int) -> None:
    """Refuse (ValueError, one line) images of more patches than the text encoder has positions for."""
    tokens, longest = num_patches + 2, config.longest_sequence
    if tokens > longest:
        what = f"{config.image_size} px are {num_patches} patches, with their two ends {tokens} tokens"
        advice = "use a smaller image_size or image_path 'projection'"
        raise ValueError(f"image_path: {what}, and the text encoder has {longest} positions; {advice}")
