"""One platform expert: its own last text layers, last vision blocks, projection and temperature."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .vision_pemoe import VisionTail


class PlatformExpert(nn.Module):
    """The trainable tail of one platform (PE-MoE, Sec. 3.2): maps shared features to its embeddings (t_k, v_k).

    Its text layers are of the class of `text_trunk`'s; the blocks and the norm of `vision` are copied.
    """

    def __init__(self, config: PreTrainedConfig, text_trunk: PreTrainedModel, vision: VisionTail) -> None:
        super().__init__()
        layer_class = type(text_trunk.encoder.layer[0])
        # on the trunk's own configuration object: both keep one attention implementation
        self.text_layers = nn.ModuleList(layer_class(text_trunk.config) for _ in range(config.text_expert_layers))
        for module in self.text_layers.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.tail_dropout
        self.vision_blocks = copy.deepcopy(vision.blocks)
        self.vision_norm = copy.deepcopy(vision.norm)
        self.visual_projection = nn.Linear(vision.width, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init)))
        self.norm_before_pool, self.pool = vision.norm_before_pool, vision.pool
        self.gradient_checkpointing, self.checkpoint_every = False, 1  # both set by `activation_checkpointing_enable`

    def forward(
        self, hidden: Tensor | None, mask: Tensor | None, tokens: Tensor | None, rope: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """`t_k`, `v_k` (None for a side not given) and the log temperature, 0-d fp32.

        Args:
            hidden: token states of the text trunk, `(Q, S, W)`, or None.
            mask: as the text layers take it, None for no padding.
            tokens: token states of the image trunk, `(G, N, W)`, or None.
            rope: rotary table of the image trunk, or None.
        """
        text = None if hidden is None else self.embed_text(hidden, mask)
        image = None if tokens is None else self.embed_image(tokens, rope)
        return text, image, self.logit_scale.float()

    def embed_text(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`t_k`: normalised CLS of the text tail; `(B, S, D)` -> `(B, D)` fp32."""
        hidden = hidden.to(self.logit_scale.dtype)
        for layer in self.text_layers:
            hidden = layer(hidden, mask)  # (B, S, D)
        return F.normalize(hidden[:, 0].float(), dim=-1)

    def pool_image(self, tokens: Tensor, rope: Tensor | None) -> Tensor:
        """Pooled image tail before the projection; `(B, N, W)` -> `(B, W)`."""
        tokens = tokens.to(self.logit_scale.dtype)
        options = {} if rope is None else {"rope": rope}
        for number, block in enumerate(self.vision_blocks):
            if self.gradient_checkpointing and self.training and number % self.checkpoint_every == 0:
                tokens = self._gradient_checkpointing_func(partial(block, **options), tokens)
            else:
                tokens = block(tokens, **options)
        return self.pool(self.vision_norm(tokens)) if self.norm_before_pool else self.vision_norm(self.pool(tokens))

    def embed_image(self, tokens: Tensor, rope: Tensor | None) -> Tensor:
        """`v_k`: normalised projection of the pooled image tail; `(B, N, W)` -> `(B, D)` fp32."""
        return F.normalize(self.visual_projection(self.pool_image(tokens, rope)).float(), dim=-1)


def checkpoint_while_learning(checkpoint: Callable, layer: Callable, *inputs: object) -> Tensor:
    """Checkpoint a layer where something will go back through it; without gradient, only run it."""
    return checkpoint(layer, *inputs) if torch.is_grad_enabled() else layer(*inputs)
