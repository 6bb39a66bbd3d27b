"""A training step of one expert over frozen trunks, against full fine-tuning of the same pair of encoders.

    python benchmarks/training_step.py --output runs/bench_training_step

A step is forward, backward and AdamW on one batch of pairs, InfoNCE, fp32, dropout off on both sides. `expert` is
`PeMoEModel(..., experts=["drone"])`; `expert_cached` gets the image trunk's output from a cache; `full_fine_tuning`
trains every layer of a plain timm encoder and a plain transformers encoder of the same shape. The floor counts the
matrix products of the layers: forward once through what is frozen, and three times forward (forward, gradient of the
inputs, gradient of the weights) through what is trained. AdamW (it costs the more the more is trained), embeddings and
projections are not in it, nor that the lowest trained layer needs no gradient of its inputs (under 3 % of an expert).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timing import build_config, build_inputs, compare, describe_model, run_benchmark, time_interleaved
from torch import Tensor, nn
from transformers import AutoModel

from pemoe.modeling_pemoe import InfoNCELoss, PeMoEConfig, PeMoEModel
from pemoe.modeling_pemoe.vision_pemoe import build_vision_encoder

EXPERT = "drone"
LEARNING_RATE = 2e-5
WEIGHT_DECAY = 1e-4


class EncoderPair(nn.Module):
    """A plain two-tower model without frozen parts: CLS of the text encoder, projection of the pooled image."""

    def __init__(self, config: PeMoEConfig) -> None:
        super().__init__()
        self.text = AutoModel.from_config(config.text_config, add_pooling_layer=False)
        self.vision = build_vision_encoder(config.vision_config, config.image_size)
        self.visual_projection = nn.Linear(self.vision.num_features, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor, place_id: Tensor) -> Tensor:
        """InfoNCE of a batch of pairs, 0-d."""
        hidden = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, S, D)
        text = F.normalize(hidden[:, 0], dim=-1)  # (B, D)
        image = F.normalize(self.visual_projection(self.vision(pixel_values)), dim=-1)  # (B, D)
        return InfoNCELoss()(text, image, place_id, self.logit_scale)["loss"]


class Work(NamedTuple):
    """Multiply-adds of one forward pass through the layers of one tower, for a batch."""

    trunk: float
    tail: float


def layer_work(layer: nn.Module, sequences: int, tokens: int, width: int) -> float:
    """Multiply-adds of one transformer layer: its linear maps, and 2 N W per token in the attention products."""
    linear = sum(module.weight.numel() for module in layer.modules() if isinstance(module, nn.Linear))
    return float(sequences * tokens * (linear + 2 * tokens * width))


def count_work(model: PeMoEModel, inputs: dict[str, Tensor], image_tokens: int) -> tuple[Work, Work]:
    """Work of the text and of the image tower of one expert."""
    expert, pairs = model.experts[EXPERT], len(inputs["pixel_values"])
    text = layer_work(expert.text_layers[0], pairs, inputs["input_ids"].shape[1], model.config.embed_dim)
    image = layer_work(expert.vision_blocks[0], pairs, image_tokens, model.vision_trunk.num_features)
    return (
        Work(text * len(model.text_trunk.encoder.layer), text * len(expert.text_layers)),
        Work(image * len(model.vision_trunk.blocks), image * len(expert.vision_blocks)),
    )


def floors(text: Work, image: Work) -> dict[str, float]:
    """(trunk + 3 tail) / 3 (trunk + tail) over both towers; a cached image trunk leaves the numerator.

    Example:
        >>> round(floors(Work(0, 0), Work(20, 4))["expert/full_fine_tuning"], 3)
        0.444
    """
    full = 3 * (sum(text) + sum(image))
    expert = text.trunk + image.trunk + 3 * (text.tail + image.tail)
    return {"expert/full_fine_tuning": expert / full, "expert_cached/full_fine_tuning": (expert - image.trunk) / full}


def build_step(model: nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], None]:
    """One step of training: forward, backward, AdamW."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def step() -> None:
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()

    return step


def measure(smoke: bool, rounds: int, seed: int) -> dict:
    """Compare the steps on one batch; 8 pairs, texts of 64 tokens (smoke: 2 of 8)."""
    torch.manual_seed(seed)
    config = build_config(smoke, tail_dropout=0.0)
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    model, pair = PeMoEModel(config).train(), EncoderPair(config).train()
    pairs, tokens = (2, 8) if smoke else (8, 64)
    inputs = {**build_inputs(config, pairs, pairs, tokens, seed), "place_id": torch.arange(pairs)}
    image_states = model.encode_image_trunk(inputs["pixel_values"])  # (B, N, W)
    cached = {**inputs, "pixel_values": None, "image_states": image_states}
    calls = {
        "expert": build_step(model, lambda: model(**inputs, experts=[EXPERT]).loss),
        "expert_cached": build_step(model, lambda: model(**cached, experts=[EXPERT]).loss),
        "full_fine_tuning": build_step(pair, lambda: pair(**inputs)),
    }
    floor_ratios = floors(*count_work(model, inputs, image_states.shape[1]))
    return {
        "model": describe_model(model),
        "batch": {"pairs": pairs, "image_size_px": config.image_size, "text_tokens": tokens},
        "trained_parameters": {
            "expert": _count(model.experts[EXPERT].parameters()),
            "full_fine_tuning": _count(pair.parameters()),
        },
        "step": compare(time_interleaved(calls, rounds), floor_ratios),
    }


def _count(parameters: Iterator[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


if __name__ == "__main__":
    run_benchmark("training_step", "A step of one expert against full fine-tuning.", measure)
