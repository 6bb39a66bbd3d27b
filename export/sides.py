"""The two halves of a model as modules of their own, and the inputs that their graphs are checked with."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pemoe.common.errors import InputError
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.modeling_pemoe.modeling_pemoe import fuse_images, fuse_text

SHORTEST_TEXT = 2  # tokens: beginning and end


class ExportError(InputError):
    """A model that cannot be exported, or an export that misses its parity."""


class TextSide(nn.Module):
    """`input_ids` and `attention_mask` `(Q, S)` to `query` `(Q, E * D)`, fused, and `gate_weights` `(Q, E)`."""

    inputs = ("input_ids", "attention_mask")
    outputs = ("query", "gate_weights")
    axes = ("batch", "length")  # the dynamic ones, from the first

    def __init__(self, model: PeMoEModel) -> None:
        super().__init__()
        tails = [(one.vision_blocks, one.vision_norm, one.visual_projection) for one in model.experts.values()]
        self.model = _without(model, [model.vision_trunk, *(part for tail in tails for part in tail)])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The query side of Eq. 1."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        return fuse_text(output), output.gate_weights

    def example(self, batch: int, length: int | None = None, is_padded: bool = False) -> dict[str, Tensor]:
        """Seeded texts of `length` tokens (None for the longest); padded, each row is one token shorter than the next.

        A row keeps at least `SHORTEST_TEXT` tokens.
        """
        config = self.model.config
        length = length or config.max_text_tokens
        pad, vocabulary = config.text_config.pad_token_id or 0, config.text_config.vocab_size
        tokens = torch.randint(1, vocabulary, (batch, length), generator=torch.Generator().manual_seed(batch))
        input_ids = (pad + tokens) % vocabulary  # every token but the padding
        kept = torch.full((batch, 1), length) - is_padded * torch.arange(batch).flip(0)[:, None]
        mask = torch.arange(length)[None] < kept.clamp(min=SHORTEST_TEXT)
        return {"input_ids": input_ids.masked_fill(~mask, pad), "attention_mask": mask.long()}

    def cases(self) -> Iterator[dict[str, Tensor]]:
        """Several batch sizes and lengths, padded and not."""
        longest = self.model.config.max_text_tokens
        middle = max(SHORTEST_TEXT, longest // 3)
        for batch, length in ((1, SHORTEST_TEXT), (1, longest), (2, middle), (3, longest), (5, middle)):
            yield self.example(batch, length)
            if batch > 1:
                yield self.example(batch, length, is_padded=True)


class ImageSide(nn.Module):
    """`pixel_values` `(G, 3, H, W)` to `gallery` `(G, E * D)`."""

    inputs = ("pixel_values",)
    outputs = ("gallery",)
    axes = ("batch",)

    def __init__(self, model: PeMoEModel) -> None:
        super().__init__()
        text_side = [model.text_trunk, *(e.text_layers for e in model.experts.values())]
        reads_patches = model.config.image_path == "visualized_bge"
        self.model = _without(model, [model.gate] if reads_patches else [model.gate, *text_side])

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """The gallery side of Eq. 1."""
        return (fuse_images(self.model(pixel_values=pixel_values, return_dict=True)),)

    def example(self, batch: int) -> dict[str, Tensor]:
        """Seeded pixels as the processor gives them: mean about 0, variance about 1."""
        size = self.model.config.image_size
        pixels = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
        return {"pixel_values": pixels}

    def cases(self) -> Iterator[dict[str, Tensor]]:
        """Several batch sizes."""
        yield from map(self.example, (1, 2, 3))


SIDES = {"text": TextSide, "image": ImageSide}


def check_exportable(model: PeMoEModel) -> None:
    """Raise `ExportError` unless the model is fp32 and on the CPU, which is what its graphs are compared with."""
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()} - {"float32"})
    if dtypes:
        raise ExportError(f"the model holds {', '.join(dtypes)} weights; load it with dtype=torch.float32")
    if model.device.type != "cpu":
        raise ExportError(f'the model is on {model.device}; move it to the CPU with model.to("cpu") to export it')


def _without(model: PeMoEModel, unused: list[nn.Module]) -> PeMoEModel:
    """The model in eval mode without some of its parts, else a graph would hold their weights; no weight is copied."""
    kept = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, kept | {id(part): nn.Identity() for part in unused}).eval()
