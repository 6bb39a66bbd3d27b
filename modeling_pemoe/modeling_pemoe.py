"""`PeMoEModel`: one frozen pair of encoders, one expert per platform, one gate that reads the query."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput

from .losses_pemoe import MAX_LOG_SCALE, InfoNCELoss
from .pretrained_pemoe import PeMoEPreTrainedModel
from .processing_pemoe import PeMoEProcessor
from .vision_pemoe import rotary_table


@dataclass
class PeMoEOutput(ModelOutput):
    """What `PeMoEModel` returns; Q texts, G images, E experts (1 when `experts` names one), D dimensions, all fp32."""

    loss: Tensor | None = None  # InfoNCE, when `place_id` was given and Q = G
    logits_per_text: Tensor | None = None  # exp(logit_scale) times Eq. (1), (Q, G); None when `experts` was given
    logits_per_image: Tensor | None = None  # its transpose, (G, Q)
    text_embeds: Tensor | None = None  # t_k, unit rows, (Q, E, D)
    image_embeds: Tensor | None = None  # v_k, unit rows, (G, E, D)
    gate_weights: Tensor | None = None  # g_k(q), rows sum to 1, (Q, E); None when `experts` was given
    gate_logits: Tensor | None = None  # before the softmax, (Q, E); -inf for masked platforms
    logit_scale: Tensor | None = None  # log inverse temperatures of the experts that ran, (E,)


class PeMoEModel(PeMoEPreTrainedModel):
    """Text-to-image retrieval by platform experts over frozen encoders (PE-MoE).

    S(q, I) = sum_k g_k(q) cos(t_k, v_k)                                   (Eq. 1 of the paper)

    It is one inner product: query `[g_1 t_1 ... g_E t_E]`, gallery `[v_1 ... v_E]`, both `E * D` long. Weights are
    random when built from a configuration alone (see `from_backbones` and `from_pretrained`).

    Example:
        >>> model = PeMoEModel(PeMoEModel.config_class.preset("tiny"))
        >>> model.get_image_features(torch.zeros(2, 3, 56, 56)).image_embeds.shape
        torch.Size([2, 3, 32])
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        place_id: Tensor | None = None,
        experts: list[str] | None = None,
        image_states: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> PeMoEOutput | tuple:
        """Embed texts and images, weigh the experts, score every pair.

        Args:
            input_ids, attention_mask: `(Q, S)` int64; None to leave texts out.
            pixel_values: `(G, 3, H, W)` float; None to leave images out.
            place_id: `(Q,)` int64 place of each text-image pair; asks for the loss (needs Q = G).
            experts: names of the experts to run; None runs all and fuses them. With names, the embeds hold these
                experts only, the gate and the fused logits are None, and the loss is the mean of their InfoNCE.
            image_states: output of `encode_image_trunk`, `(G, N, W)`, instead of `pixel_values`: the trunk is frozen,
                so a trainer may run it once per image.

        Raises:
            ValueError: no input, or an unknown expert.
        """
        if input_ids is None and pixel_values is None and image_states is None:
            raise ValueError("forward: give input_ids, pixel_values or both")
        names = list(self.config.platforms if experts is None else experts)
        if not names or not set(names) <= set(self.experts):
            raise ValueError(f"experts: {names} are not among the platforms {self.config.platforms}")
        output = PeMoEOutput(logit_scale=torch.stack([self.experts[name].logit_scale.float() for name in names]))
        if input_ids is not None:
            self._add_text(output, input_ids, attention_mask, names, with_gate=experts is None)
        if pixel_values is not None:
            image_states = self.encode_image_trunk(pixel_values)
        if image_states is not None:
            rope = rotary_table(self.vision_trunk)
            embeds = [self.experts[name].embed_image(image_states, rope) for name in names]
            output.image_embeds = torch.stack(embeds, dim=1)  # (G, E, D)
        if input_ids is not None and image_states is not None:
            with torch.autocast(output.text_embeds.device.type, enabled=False):  # scores are fp32 under autocast too
                self._add_scores(output, place_id, fused=experts is None)
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def _add_text(
        self, output: PeMoEOutput, input_ids: Tensor, attention_mask: Tensor | None, names: list[str], with_gate: bool
    ) -> None:
        trunk = self.text_trunk
        with torch.no_grad():
            hidden = trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (Q, S, D)
        states = hidden.to(self.dtype_of_experts)
        mask = create_bidirectional_mask(config=trunk.config, inputs_embeds=states, attention_mask=attention_mask)
        output.text_embeds = torch.stack([self.experts[name].embed_text(states, mask) for name in names], dim=1)
        if with_gate:
            output.gate_weights, output.gate_logits = self.gate(hidden[:, 0], self.config.active_experts)

    def encode_image_trunk(self, pixel_values: Tensor) -> Tensor:
        """Token states at the end of the frozen image trunk: `(G, 3, H, W)` -> `(G, tokens, width)`, no gradient."""
        with torch.no_grad():
            return self.vision_trunk.forward_features(pixel_values.to(self.dtype_of_trunk))

    def _add_scores(self, output: PeMoEOutput, place_id: Tensor | None, fused: bool) -> None:
        with_loss = place_id is not None and len(output.text_embeds) == len(output.image_embeds)
        if fused:
            query, gallery = fuse_text(output), fuse_images(output)
            scale = self.logit_scale.float().clamp(max=MAX_LOG_SCALE).exp()
            output.logits_per_text = scale * (query @ gallery.T)  # (Q, G)
            output.logits_per_image = output.logits_per_text.T
            if with_loss:
                output.loss = InfoNCELoss()(query, gallery, place_id, self.logit_scale)["loss"]
        elif with_loss:
            experts = zip(output.text_embeds.unbind(1), output.image_embeds.unbind(1), output.logit_scale, strict=True)
            output.loss = torch.stack([InfoNCELoss()(t, v, place_id, scale)["loss"] for t, v, scale in experts]).mean()

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, experts: list[str] | None = None
    ) -> PeMoEOutput:
        """`forward` with texts alone: `text_embeds`, `gate_weights`, `gate_logits`."""
        return self(input_ids=input_ids, attention_mask=attention_mask, experts=experts, return_dict=True)

    def get_image_features(self, pixel_values: Tensor, experts: list[str] | None = None) -> PeMoEOutput:
        """`forward` with images alone: `image_embeds`."""
        return self(pixel_values=pixel_values, experts=experts, return_dict=True)

    def encode_text(
        self, texts: list[str], processor: PeMoEProcessor, batch_size: int = 32, show_progress: bool = False
    ) -> np.ndarray:
        """Fused query vectors `[g_1 t_1 ... g_E t_E]`, `(n, E * D)` fp32, ready for an inner-product index.

        They are not unit length, so compare by inner product, never by cosine. `processor` is the checkpoint's,
        `batch_size` the texts per forward pass.

        Raises:
            ValueError: an empty text, one text instead of a list, or a `batch_size` below 1.
        """
        return self._encode("text", texts, processor, batch_size, show_progress)

    def encode_images(
        self, images: list[Image.Image], processor: PeMoEProcessor, batch_size: int = 32, show_progress: bool = False
    ) -> np.ndarray:
        """Fused gallery vectors `[v_1 ... v_E]`, `(n, E * D)` fp32, rows of norm sqrt(E); else as `encode_text`."""
        return self._encode("images", images, processor, batch_size, show_progress)

    @torch.no_grad()
    def _encode(
        self, kind: str, items: list, processor: PeMoEProcessor, batch_size: int, show_progress: bool
    ) -> np.ndarray:
        if isinstance(items, (str, os.PathLike, Image.Image)):
            one = "string" if isinstance(items, str) else "picture"
            raise ValueError(f"encode_{kind}: give a list, not one {one}")
        if batch_size < 1:
            raise ValueError(f"encode_{kind}: batch_size is {batch_size}, it must be at least 1")
        was_training, fuse = self.training, fuse_text if kind == "text" else fuse_images
        parts = [np.zeros((0, self.config.num_experts * self.config.embed_dim), dtype=np.float32)]
        self.eval()
        try:
            for start in tqdm(range(0, len(items), batch_size), disable=not show_progress, desc="encode"):
                inputs = processor(**{kind: items[start : start + batch_size]}).to(self.device)
                parts.append(fuse(self(**inputs, return_dict=True)).cpu().numpy())
        finally:
            self.train(was_training)
        return np.concatenate(parts)


def fuse_text(output: PeMoEOutput) -> Tensor:
    """Query side of Eq. (1) as one inner product: `[g_1 t_1 ... g_E t_E]`, `(Q, E * D)`."""
    return (output.gate_weights.unsqueeze(-1) * output.text_embeds).flatten(1)


def fuse_images(output: PeMoEOutput) -> Tensor:
    """Gallery side of Eq. (1): `[v_1 ... v_E]`, `(G, E * D)`."""
    return output.image_embeds.flatten(1)
