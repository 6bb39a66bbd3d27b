"""A training step of one expert, against the same work by hand with open_clip and sentence-transformers.

    python benchmarks/step_by_hand.py --output runs/bench_step_by_hand

Both sides start from the same two backbones and train the same last layers by InfoNCE with AdamW, fp32, dropout off:
`pemoe` is `PeMoEModel(..., experts=["drone"])`; `by_hand` freezes all but the last layers of open_clip's image tower
and of a `SentenceTransformer`, adds a projection, and calls them. `max_abs_difference` compares what both embed. The
floor of their ratio is 1: the layers and the products are the same. `pemoe_cached` gets the image trunk's output from
a cache; its floor leaves the image trunk out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from cold_start import write_backbones
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from timing import build_inputs, compare, describe_model, run_benchmark, time_interleaved
from torch import Tensor, nn
from training_step import EXPERT, build_step, count_work

from pemoe.modeling_pemoe import PeMoEModel

SHAPES = {True: (2, 2, 8), False: (4, 8, 64)}  # smoke: image layers of an expert, pairs, text tokens


class ByHand(nn.Module):
    """open_clip's image tower and a `SentenceTransformer`, frozen but for their last layers and a projection."""

    def __init__(self, text: Path, clip: Path, like: PeMoEModel) -> None:
        super().__init__()
        words = Transformer(str(text))
        self.text = SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension(), "cls")])
        self.clip = open_clip.create_model(f"local-dir:{clip}")
        expert = like.experts[EXPERT]
        self.projection = nn.Linear(expert.visual_projection.in_features, expert.visual_projection.out_features)
        self.projection.load_state_dict(expert.visual_projection.state_dict())
        self.logit_scale = nn.Parameter(expert.logit_scale.detach().clone())
        trunk = self.clip.visual.trunk
        trunk.reset_classifier(0)  # our projection takes the place of CLIP's
        last_text = words.model.encoder.layer[-like.config.text_expert_layers :]
        trained = [*last_text, *trunk.blocks[-like.config.vision_expert_layers :], trunk.norm, trunk.fc_norm]
        for tower in (self.text, self.clip):
            tower.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)

    def embed(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Unit rows of texts and pictures, `(B, D)` each."""
        text = self.text({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]
        image = self.projection(self.clip.visual(pixel_values))
        return F.normalize(text, dim=-1), F.normalize(image, dim=-1)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Symmetric cross-entropy over the batch, 0-d."""
        text, image = self.embed(**inputs)
        logits = self.logit_scale.exp() * text @ image.T  # (B, B)
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def without_dropout(model: nn.Module) -> nn.Module:
    """The model in training mode with every dropout off."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def floors(model: PeMoEModel, inputs: dict[str, Tensor], image_tokens: int) -> dict[str, float]:
    """1 for the same work; without the image trunk for the cached step."""
    text, image = count_work(model, inputs, image_tokens)
    step = text.trunk + image.trunk + 3 * (text.tail + image.tail)
    return {"pemoe/by_hand": 1.0, "pemoe_cached/by_hand": (step - image.trunk) / step}


def measure(smoke: bool, rounds: int, seed: int) -> dict:
    """Both sides from the same backbones, on the same batch, in turns."""
    layers, pairs, tokens = SHAPES[smoke]
    with tempfile.TemporaryDirectory() as name:
        text, clip = write_backbones(Path(name), smoke, seed)
        shape = {"image_size": 224, "vision_expert_layers": layers, "tail_dropout": 0.0}
        model = PeMoEModel.from_backbones(str(text), str(clip), platforms=[EXPERT], **shape)
        by_hand = without_dropout(ByHand(text, clip, model))
    model.freeze_trunks()
    without_dropout(model)
    inputs = build_inputs(model.config, pairs, pairs, tokens, seed)
    with torch.no_grad():
        output, states = model(**inputs, experts=[EXPERT]), model.encode_image_trunk(inputs["pixel_values"])
        expected = by_hand.embed(**inputs)
    found = output.text_embeds[:, 0], output.image_embeds[:, 0]
    difference = max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))
    cached = {**inputs, "pixel_values": None, "image_states": states}
    calls = {
        "pemoe": build_step(model, lambda: model(**inputs, experts=[EXPERT], return_loss=True).loss),
        "pemoe_cached": build_step(model, lambda: model(**cached, experts=[EXPERT], return_loss=True).loss),
        "by_hand": build_step(by_hand, lambda: by_hand(**inputs)),
    }
    ratios = compare(time_interleaved(calls, rounds), floors(model, inputs, states.shape[1]))
    return {
        "model": describe_model(model),
        "batch": {"pairs": pairs, "image_size_px": model.config.image_size, "text_tokens": tokens},
        "trained_parameters": {
            "pemoe": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "by_hand": sum(p.numel() for p in by_hand.parameters() if p.requires_grad),
        },
        "step": {"max_abs_difference": difference, **ratios},
    }


if __name__ == "__main__":
    run_benchmark("step_by_hand", "A step of one expert against the same work by hand.", measure)
