"""Small random models of the real classes, and inputs for them."""

from __future__ import annotations

import torch

from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel


def build_tiny_model(**overrides: object) -> PeMoEModel:
    """A seeded random model of the `tiny` preset."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PeMoEModel(PeMoEConfig.preset("tiny", **overrides)).eval()


def build_tiny_inputs(count: int = 4, image_size: int = 56) -> dict[str, torch.Tensor]:
    """Seeded inputs: the first text is the shortest, the last fills the batch."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, 200, (count, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    for row in range(count - 1):
        attention_mask[row, 4 + row :] = 0
    input_ids = input_ids.masked_fill(attention_mask == 0, 1)
    pixel_values = torch.randn(count, 3, image_size, image_size, generator=generator)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}
