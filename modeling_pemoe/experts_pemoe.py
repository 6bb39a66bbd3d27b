"""One platform expert: its own last text layers, last vision blocks, projection and temperature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .text_pemoe import run_text_tail
from .vision_pemoe import run_block


class PlatformExpert(nn.Module):
    """The trainable tail of one platform (PE-MoE, Sec. 3.2): maps shared features to its embeddings (t_k, v_k).

    Args:
        text_layers: last layers of the text encoder.
        vision_blocks: last blocks of the image encoder.
        vision_norm: final norm of the image encoder.
        norm_before_pool: False when the norm follows the pooling (average-pooled encoders).
        vision_dim: width W of the image encoder.
        embed_dim: D of the shared space.
        logit_scale_init: log of the first inverse temperature.
    """

    def __init__(
        self,
        text_layers: nn.ModuleList,
        vision_blocks: nn.ModuleList,
        vision_norm: nn.Module,
        norm_before_pool: bool,
        vision_dim: int,
        embed_dim: int,
        logit_scale_init: float,
    ) -> None:
        super().__init__()
        self.text_layers = text_layers
        self.vision_blocks = vision_blocks
        self.vision_norm = vision_norm
        self.visual_projection = nn.Linear(vision_dim, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale_init)))
        self.norm_before_pool = norm_before_pool
        self.checkpoint_blocks = False

    def embed_text(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`t_k`: normalised CLS of the text tail; `(B, S, D)` -> `(B, D)` fp32."""
        cls_state = run_text_tail(self.text_layers, hidden.to(self.visual_projection.weight.dtype), mask)
        return F.normalize(cls_state.float(), dim=-1)

    def pool_image(self, tokens: Tensor, rope: Tensor | None, trunk: nn.Module) -> Tensor:
        """Pooled image tail before the projection; `(B, N, W)` -> `(B, W)`."""
        tokens = tokens.to(self.visual_projection.weight.dtype)
        for block in self.vision_blocks:
            if self.checkpoint_blocks and self.training:
                tokens = checkpoint(run_block, block, tokens, rope, use_reentrant=False)
            else:
                tokens = run_block(block, tokens, rope)
        if self.norm_before_pool:
            return trunk.pool(self.vision_norm(tokens))
        return self.vision_norm(trunk.pool(tokens))

    def embed_image(self, tokens: Tensor, rope: Tensor | None, trunk: nn.Module) -> Tensor:
        """`v_k`: normalised projection of the pooled image tail; `(B, N, W)` -> `(B, D)` fp32."""
        return F.normalize(self.visual_projection(self.pool_image(tokens, rope, trunk)).float(), dim=-1)
