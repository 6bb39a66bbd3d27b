"""The image encoder (a timm ViT of the EVA or ViT family), cut in two: a frozen trunk and an expert's last blocks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

from torch import Tensor, nn


class VisionTail(NamedTuple):
    """What is cut off a vision encoder: an expert's start."""

    blocks: nn.ModuleList  # the last blocks
    norm: nn.Module  # the final norm
    norm_before_pool: bool  # False for average-pooled models, whose norm follows the pooling
    pool: Callable[[Tensor], Tensor]  # tokens (B, N, W) to one vector (B, W)
    width: int  # W
    num_prefix_tokens: int  # class and register tokens, before the patches


def build_vision_encoder(vision_config: dict, image_size: int) -> nn.Module:
    """The whole timm encoder without classifier, set to `image_size` px.

    A size that the patch size does not divide is cut at the right and bottom (384 px at patch 14 uses 378).

    Raises:
        ValueError: unknown architecture, wrong arguments, not a plain ViT of the EVA or ViT family, or a size below
            one patch.
    """
    timm = import_timm()
    name, model_args = vision_config["architecture"], dict(vision_config.get("model_args") or {})
    try:
        encoder = timm.create_model(name, pretrained=False, num_classes=0, **model_args)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"vision_config: timm cannot build {name!r} with {model_args}: {error}") from error
    if not all(hasattr(encoder, part) for part in ("blocks", "patch_embed", "forward_features", "pool", "norm")):
        raise ValueError(f"vision_config: {name!r} is no ViT of timm's EVA or ViT family")
    if getattr(encoder, "rope_mixed", False) or getattr(encoder, "attn_pool", None) is not None:
        raise ValueError(f"vision_config: {name!r} uses mixed rope or attention pooling, which cannot be split")
    rope = getattr(encoder, "rope", None)
    if rope is not None and not hasattr(rope, "init_non_persistent_buffers"):
        what = "this timm cannot re-create its rope tables after loading"
        raise ImportError(f"{what}: run `pip install -U 'timm>=1.0.24'`")
    set_image_size(encoder, image_size)
    for module in encoder.modules():
        if hasattr(module, "qkv_bias_separate"):  # else timm reads the weight of `qkv` without calling it,
            module.qkv_bias_separate = True  # past adapters, quantization and offloading
    return encoder


def set_image_size(encoder: nn.Module, image_size: int) -> None:
    """Set a timm encoder to `image_size` px, resampling its position embeddings; ValueError: below one patch."""
    patch_size = max(encoder.patch_embed.patch_size)
    if image_size < patch_size:
        raise ValueError(f"image_size: {image_size} px is less than one patch of {patch_size} px; use a larger one")
    encoder.set_input_size(img_size=image_size)


def split_vision_encoder(encoder: nn.Module, expert_layers: int) -> VisionTail:
    """Cut the last blocks and the final norm off a timm encoder, now the trunk; ValueError where it is too shallow."""
    depth = len(encoder.blocks)
    if expert_layers >= depth:
        raise ValueError(f"vision_expert_layers: {expert_layers} must be below the vision encoder's {depth} blocks")
    blocks = nn.ModuleList(encoder.blocks[depth - expert_layers :])
    encoder.blocks = encoder.blocks[: depth - expert_layers]
    norm_before_pool = not isinstance(encoder.norm, nn.Identity)
    norm = encoder.norm if norm_before_pool else encoder.fc_norm
    encoder.norm, encoder.fc_norm = nn.Identity(), nn.Identity()
    pool = partial(  # `encoder.pool` without the encoder, which an expert must not hold
        import_timm().layers.global_pool_nlc,
        pool_type=encoder.global_pool,
        num_prefix_tokens=encoder.num_prefix_tokens,
        reduce_include_prefix=getattr(encoder, "pool_include_prefix", False),
    )
    encoder.global_pool = ""  # from here on, calling the trunk gives its token states
    return VisionTail(blocks, norm, norm_before_pool, pool, encoder.num_features, encoder.num_prefix_tokens)


def rotary_table(trunk: nn.Module) -> Tensor | None:
    """Rotary position table of the trunk's grid, or None for a ViT without rope."""
    rope = getattr(trunk, "rope", None)
    if rope is None:
        return None
    return rope.get_embed() if hasattr(rope, "feat_shape") else rope.get_embed(shape=trunk.patch_embed.grid_size)


def needs_gradient(trunk: nn.Module, inputs: Tensor | None) -> bool:
    """Whether something in the trunk trains (unfrozen, or an adapter), or its input asks for a gradient."""
    return (inputs is not None and inputs.requires_grad) or any(p.requires_grad for p in trunk.parameters())


def import_timm() -> ModuleType:
    """timm, imported where it is used: whoever loads a checkpoint without it learns what to install."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ImportError("PE-MoE builds its image encoder with timm: run `pip install timm`") from error
