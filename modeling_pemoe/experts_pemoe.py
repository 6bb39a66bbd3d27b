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
from .visualized_bge_pemoe import PatchProjection


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
        projection = {"projection": nn.Linear, "visualized_bge": PatchProjection}[config.image_path]
        self.visual_projection = projection(vision.width, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init)))
        self.norm_before_pool, self.pool = vision.norm_before_pool, vision.pool
        self.num_prefix_tokens = vision.num_prefix_tokens
        self.gradient_checkpointing, self.checkpoint_every = False, 1  # both set by `activation_checkpointing_enable`

    def forward(
        self,
        hidden: Tensor | None,
        mask: Tensor | None,
        tokens: Tensor | None,
        rope: Tensor | None,
        encode_patches: Callable[..., Tensor] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """`t_k`, `v_k` (None for a side not given) and the log temperature, 0-d fp32.

        Args:
            hidden: token states of the text trunk, `(Q, S, W)`, or None.
            mask: as the text layers take it, None for no padding.
            tokens: token states of the image trunk, `(G, N, W)`, or None.
            rope: rotary table of the image trunk, or None.
            encode_patches: the text trunk on an image's patches, where the image path leads through it; an argument,
                since the trunk is shared and no part of an expert.
        """
        text = None if hidden is None else self.embed_text(hidden, mask)
        image = None if tokens is None else self.embed_image(tokens, rope, encode_patches)
        return text, image, self.logit_scale.float()

    def compile_layers(self, **options: object) -> None:
        """`torch.compile` the text layers and the vision blocks in place, with its options: names and weights stay."""
        for layer in (*self.text_layers, *self.vision_blocks):
            layer.compile(**options)

    def embed_text(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`t_k`: normalised CLS of the text tail; `(B, S, D)` -> `(B, D)` fp32."""
        hidden = hidden.to(self.logit_scale.dtype)
        for layer in self.text_layers:
            hidden = layer(hidden, mask)  # (B, S, D)
        return F.normalize(hidden[:, 0].float(), dim=-1)

    def run_vision_blocks(self, tokens: Tensor, rope: Tensor | None) -> Tensor:
        """Token states at the end of the image tail, before its norm; `(B, N, W)` -> `(B, N, W)`."""
        tokens = tokens.to(self.logit_scale.dtype)
        options = {} if rope is None else {"rope": rope}
        for number, block in enumerate(self.vision_blocks):
            tokens = self._run_layer(number, partial(block, **options), tokens)
        return tokens

    def _run_layer(self, number: int, layer: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """Layer `number` of several on its inputs, checkpointed where that is asked for."""
        if self.gradient_checkpointing and self.training and number % self.checkpoint_every == 0:
            return self._gradient_checkpointing_func(layer, *inputs)
        return layer(*inputs)

    def pool_image(self, tokens: Tensor, rope: Tensor | None) -> Tensor:
        """Pooled image tail before the projection; `(B, N, W)` -> `(B, W)`."""
        tokens = self.run_vision_blocks(tokens, rope)
        return self.pool(self.vision_norm(tokens)) if self.norm_before_pool else self.vision_norm(self.pool(tokens))

    def embed_image(
        self, tokens: Tensor, rope: Tensor | None, encode_patches: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """`v_k`, `(B, N, W)` -> `(B, D)` fp32: the normalised projection of the pooled image tail.

        With `encode_patches`, the projected patches go through the text trunk and this expert's text layers instead.
        """
        if encode_patches is None:
            return F.normalize(self.visual_projection(self.pool_image(tokens, rope)).float(), dim=-1)
        states = self.vision_norm(self.run_vision_blocks(tokens, rope))
        patches = self.visual_projection(states[:, self.num_prefix_tokens :])
        return self.embed_text(encode_patches(patches, self._run_layer), None)


def checkpoint_while_learning(checkpoint: Callable, layer: Callable, *inputs: object) -> Tensor:
    """Checkpoint a layer where something will go back through it; without gradient, only run it."""
    return checkpoint(layer, *inputs) if torch.is_grad_enabled() else layer(*inputs)
