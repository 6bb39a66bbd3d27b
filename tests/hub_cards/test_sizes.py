"""Guards: `pemoe info` tells the sizes of the real encoders (counted independently, layer by layer) and no weight is
allocated for it; the checkpoint kinds add up."""

from __future__ import annotations

from tiny_models import build_tiny_model

from pemoe.hub_cards.sizes import describe_sizes
from pemoe.modeling_pemoe import PeMoEConfig

XLMR_LAYER = 12 * 1024**2 + 13 * 1024  # attention 4 d^2 + 4 d, MLP 8 d^2 + 5 d, two norms 4 d
XLMR_EMBEDDINGS = (250002 + 8194 + 1 + 2) * 1024
EVA_BLOCK = 12_602_024
EVA_TRUNK_384 = 253_392_160
PROJECTION = 1024 * 1024 + 1024
EXPERT = 2 * XLMR_LAYER + 4 * EVA_BLOCK + 2 * 1024 + PROJECTION + 1
GATE = (1024 * 512 + 512) + (512 * 3 + 3)


def test_paper_sizes() -> None:
    sizes = describe_sizes(PeMoEConfig.preset("paper"))
    assert sizes["parts"]["text_trunk"]["parameters"] == XLMR_EMBEDDINGS + 22 * XLMR_LAYER
    assert sizes["parts"]["vision_trunk"]["parameters"] == EVA_TRUNK_384
    assert sizes["parts"]["expert"]["parameters"] == EXPERT == 76_652_193
    assert sizes["parts"]["gate"]["parameters"] == GATE
    experts_only = 3 * EXPERT + GATE + 1
    full = experts_only + XLMR_EMBEDDINGS + 22 * XLMR_LAYER + EVA_TRUNK_384
    assert sizes["checkpoints"]["experts_only"]["parameters"] == experts_only == 230_482_919
    assert sizes["checkpoints"]["full"]["parameters"] == full == 1_025_387_783
    assert sizes["checkpoints"]["full"]["mb_bf16"] == 2 * full / 1e6
    assert sizes["trainable_share"] == experts_only / full


def test_sizes_are_those_of_a_built_model() -> None:
    model = build_tiny_model()
    built = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sizes = describe_sizes(model.config)
    assert sizes["checkpoints"]["full"]["parameters"] == built
    assert sizes["checkpoints"]["experts_only"]["parameters"] == trainable
