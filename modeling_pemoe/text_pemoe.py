"""The text encoder, cut in two: a frozen trunk and the last layers that every expert owns."""

from __future__ import annotations

import copy

from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel


def build_text_trunk(text_config: PreTrainedConfig, expert_layers: int) -> PreTrainedModel:
    """First `num_hidden_layers - expert_layers` layers of the encoder, without a pooler, randomly initialised."""
    trunk_config = copy.deepcopy(text_config)
    trunk_config.num_hidden_layers = text_config.num_hidden_layers - expert_layers
    trunk_config.dtype = None  # else a backbone stored in bf16 would give a bf16 trunk under fp32 experts
    return AutoModel.from_config(trunk_config, add_pooling_layer=False)


def build_text_layers(trunk: PreTrainedModel, expert_layers: int, dropout: float) -> nn.ModuleList:
    """The last layers of one expert: of the trunk's layer class, on the trunk's configuration object.

    Sharing that object keeps the attention implementation of trunk and experts the same.
    """
    layer_class = type(trunk.encoder.layer[0])
    layers = nn.ModuleList(layer_class(trunk.config) for _ in range(expert_layers))
    for module in layers.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return layers
