"""Parameter counts and checkpoint sizes of a configuration."""

from __future__ import annotations

import torch
from torch import nn

from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel


def describe_sizes(config: PeMoEConfig) -> dict:
    """Parameters and MB (1e6 bytes) of every part and of both checkpoint kinds; nothing is downloaded or allocated.

    Returns:
        `{"parts": {"text_trunk", "vision_trunk", "expert", "gate"}, "checkpoints": {"full", "experts_only"},
        "trainable_share"}`; each part is `{"parameters", "mb_bf16", "mb_fp32"}`. `expert` is one expert with its
        `logit_scale`; both checkpoints hold the model's own `logit_scale` too.

    Example:
        >>> describe_sizes(PeMoEConfig.preset("paper"))["parts"]["gate"]["parameters"]
        526339
    """
    with torch.device("meta"):
        model = PeMoEModel(config)
    parts = {
        "text_trunk": model.text_trunk,
        "vision_trunk": model.vision_trunk,
        "expert": model.experts[config.platforms[0]],
        "gate": model.gate,
    }
    full, trunks = _count(model), _count(model.text_trunk) + _count(model.vision_trunk)
    return {
        "parts": {name: _size(_count(part)) for name, part in parts.items()},
        "checkpoints": {"full": _size(full), "experts_only": _size(full - trunks)},
        "trainable_share": (full - trunks) / full,
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _size(parameters: int) -> dict[str, float]:
    return {"parameters": parameters, "mb_bf16": 2 * parameters / 1_000_000, "mb_fp32": 4 * parameters / 1_000_000}
