"""`PeMoEModel`: one frozen pair of encoders, one expert per platform, one gate that reads the query."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput

from .losses_pemoe import MAX_LOG_SCALE, InfoNCELoss
from .pictures_pemoe import is_one_picture
from .pretrained_pemoe import PeMoEPreTrainedModel
from .processing_pemoe import PeMoEProcessor
from .vision_pemoe import needs_gradient, rotary_table
from .visualized_bge_pemoe import encode_patches


@dataclass
class PeMoEOutput(ModelOutput):
    """What `PeMoEModel` returns; Q texts, G images, E experts (1 when `experts` names one), D dimensions, all fp32.

    What is filled comes in this order, in `to_tuple()` too: the loss first when there is one, the fused vectors first
    when only texts or only images were given (the stock feature-extraction pipelines take the first).
    """

    loss: Tensor | None = None  # InfoNCE, when `place_id` or `return_loss` asks for it and Q = G
    logits_per_text: Tensor | None = None  # exp(logit_scale) times Eq. (1), (Q, G); None when `experts` was given
    logits_per_image: Tensor | None = None  # its transpose, (G, Q)
    pooler_output: Tensor | None = None  # fused vectors of the one side given, (Q or G, E * D); None with `experts`
    text_embeds: Tensor | None = None  # t_k, unit rows, (Q, E, D)
    image_embeds: Tensor | None = None  # v_k, unit rows, (G, E, D)
    gate_weights: Tensor | None = None  # g_k(q), rows sum to 1, (Q, E); None when `experts` was given
    gate_logits: Tensor | None = None  # before the softmax, (Q, E); -inf for masked platforms
    logit_scale: Tensor | None = None  # log inverse temperatures of the experts that ran, (E,); with both sides


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

    def forward(  # noqa: PLR0913 - what transformers, peft and tokenizers pass by name
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        place_id: Tensor | None = None,
        experts: list[str] | None = None,
        image_states: Tensor | None = None,
        return_loss: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **others: object,
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
            return_loss: True asks for the loss; without `place_id`, every pair is a place of its own. False leaves it
                out, None decides by `place_id`.
            return_dict: False for a tuple of what is filled; None for what the configuration says.
            inputs_embeds: word embeddings `(Q, S, W)`, instead of `input_ids`.
            token_type_ids: `(Q, S)` int64, as some tokenizers return; only the text trunk reads them.
            others: refused by name, unless they are None or False.

        Raises:
            ValueError: no input, an unknown expert or argument, `return_loss` without pairs.
        """
        self._refuse_arguments(others)
        hidden, mask = None, None
        if input_ids is not None or inputs_embeds is not None:
            hidden = self.encode_text_trunk(input_ids, attention_mask, inputs_embeds, token_type_ids)
            mask = self._expand_mask(hidden, attention_mask)
        if pixel_values is not None:
            if image_states is not None:
                raise ValueError("forward: give pixel_values or image_states, not both")
            image_states = self.encode_image_trunk(pixel_values)
        if hidden is None and image_states is None:
            raise ValueError("forward: give input_ids, pixel_values or both")
        embedded = self._run_experts(self._choose(experts), hidden, mask, image_states, with_gate=experts is None)
        scores = self._score(embedded, place_id, return_loss, fused=experts is None)
        output = PeMoEOutput(**scores, **embedded)
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def _refuse_arguments(self, others: dict[str, object]) -> None:
        for name in ("output_attentions", "output_hidden_states"):
            if others.get(name, getattr(self.config, name, None)):
                raise ValueError(f"forward: {name} is not offered; run model.text_trunk or model.vision_trunk for it")
        given = [name for name, value in others.items() if value is not None and value is not False]
        if "labels" in given:
            raise ValueError("forward: labels are not used; give place_id, the place of each text-image pair")
        if given:
            raise ValueError(f"forward: unknown argument {', '.join(given)}")

    def _choose(self, experts: list[str] | None) -> list[str]:
        if isinstance(experts, str):
            raise ValueError(f"experts: give a list of names, not the string {experts!r}")
        names = list(self.config.platforms if experts is None else experts)
        if not names or not set(names) <= set(self.experts):
            raise ValueError(f"experts: {names} are not among the platforms {self.config.platforms}")
        return names

    def encode_text_trunk(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Token states at the end of the text trunk, `(Q, S, W)`, without gradient while the trunk is frozen."""
        texts = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_gradient(self.text_trunk, inputs_embeds)):
            return self.text_trunk(**texts, token_type_ids=token_type_ids).last_hidden_state

    def encode_image_trunk(self, pixel_values: Tensor) -> Tensor:
        """Token states at the end of the image trunk: `(G, 3, H, W)` -> `(G, tokens, width)`, gradient likewise."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_gradient(self.vision_trunk, pixel_values)):
            return self.vision_trunk(pixel_values.to(self.dtype_of_trunk))

    def _expand_mask(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        states = hidden.to(self.dtype_of_experts)  # the mask takes their dtype
        return create_bidirectional_mask(
            config=self.text_trunk.config, inputs_embeds=states, attention_mask=attention_mask
        )

    def _run_experts(
        self, names: list[str], hidden: Tensor | None, mask: Tensor | None, tokens: Tensor | None, with_gate: bool
    ) -> dict[str, Tensor]:
        """The embeds of the named experts and the gate's answer, as fields of `PeMoEOutput`; None is left out."""
        if any(self.experts[name].gradient_checkpointing for name in names) and torch.is_grad_enabled():
            hidden, tokens = _require_gradient(hidden), _require_gradient(tokens)
        rope = None if tokens is None else rotary_table(self.vision_trunk)
        reads_patches = self.config.image_path == "visualized_bge"
        encode = partial(encode_patches, self.text_trunk, self.config.prompt_ids) if reads_patches else None
        given = hidden, mask, tokens, rope, encode
        texts, images, scales = zip(*(self.experts[name](*given) for name in names), strict=True)
        fields = {}
        if hidden is not None:
            fields["text_embeds"] = torch.stack(texts, dim=1)  # (Q, E, D)
            if with_gate:
                gated = self.gate(hidden[:, 0], self.config.active_experts)
                fields["gate_weights"], fields["gate_logits"] = gated
        if tokens is not None:
            fields["image_embeds"] = torch.stack(images, dim=1)  # (G, E, D)
        if hidden is not None and tokens is not None:
            fields["logit_scale"] = torch.stack(scales)
        return fields

    def _score(
        self, embedded: dict[str, Tensor], place_id: Tensor | None, return_loss: bool | None, fused: bool
    ) -> dict[str, Tensor]:
        """Fused vectors of one side, or scores of both and the loss that was asked for, as fields of `PeMoEOutput`."""
        output = PeMoEOutput(**embedded)
        if output.text_embeds is None or output.image_embeds is None:
            if return_loss:
                raise ValueError("forward: return_loss needs texts and images")
            vectors = fuse_images if output.text_embeds is None else fuse_text
            return {"pooler_output": vectors(output)} if fused else {}
        place_id = self._places_of_loss(output, place_id, return_loss)
        with torch.autocast(output.text_embeds.device.type, enabled=False):  # scores are fp32 under autocast too
            return self._score_fused(output, place_id) if fused else self._score_experts(output, place_id)

    @staticmethod
    def _places_of_loss(output: PeMoEOutput, place_id: Tensor | None, return_loss: bool | None) -> Tensor | None:
        """The place of each pair where the loss is wanted, else None."""
        if return_loss is False or (return_loss is None and place_id is None):
            return None
        texts, images = output.text_embeds.shape[0], output.image_embeds.shape[0]
        if texts == images:
            return torch.arange(texts, device=output.text_embeds.device) if place_id is None else place_id
        if return_loss:
            raise ValueError(f"forward: return_loss needs pairs, got {texts} texts and {images} images")
        return None

    def _score_fused(self, output: PeMoEOutput, place_id: Tensor | None) -> dict[str, Tensor]:
        query, gallery = fuse_text(output), fuse_images(output)
        scale = self.logit_scale.float().clamp(max=MAX_LOG_SCALE).exp()
        logits = scale * (query @ gallery.T)  # (Q, G)
        scores = {"logits_per_text": logits, "logits_per_image": logits.T}
        if place_id is not None:
            scores["loss"] = InfoNCELoss()(query, gallery, place_id, self.logit_scale)["loss"]
        return scores

    @staticmethod
    def _score_experts(output: PeMoEOutput, place_id: Tensor | None) -> dict[str, Tensor]:
        if place_id is None:
            return {}
        experts = zip(output.text_embeds.unbind(1), output.image_embeds.unbind(1), output.logit_scale, strict=True)
        return {"loss": torch.stack([InfoNCELoss()(t, v, place_id, scale)["loss"] for t, v, scale in experts]).mean()}

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        experts: list[str] | None = None,
        **options: object,
    ) -> PeMoEOutput | tuple:
        """`forward` with texts alone: `text_embeds`, `gate_weights`, `gate_logits`, fused in `pooler_output`."""
        return self(input_ids=input_ids, attention_mask=attention_mask, experts=experts, **options)

    def get_image_features(
        self, pixel_values: Tensor, experts: list[str] | None = None, **options: object
    ) -> PeMoEOutput | tuple:
        """`forward` with images alone: `image_embeds`, fused in `pooler_output`."""
        return self(pixel_values=pixel_values, experts=experts, **options)

    def encode_text(
        self, texts: str | list[str], processor: PeMoEProcessor, batch_size: int = 32, show_progress: bool = False
    ) -> np.ndarray:
        """Fused query vectors `[g_1 t_1 ... g_E t_E]`, `(n, E * D)` fp32, ready for an inner-product index.

        One text gives one row, an empty list none. The vectors are not unit length, so compare by inner product,
        never by cosine. `processor` is the checkpoint's, `batch_size` the texts per forward pass.

        Raises:
            ValueError: an empty text, or a `batch_size` below 1.
        """
        return self._encode("text", texts, processor, batch_size, show_progress)

    def encode_images(
        self, images: object, processor: PeMoEProcessor, batch_size: int = 32, show_progress: bool = False
    ) -> np.ndarray:
        """Fused gallery vectors `[v_1 ... v_E]`, `(n, E * D)` fp32, rows of norm sqrt(E); else as `encode_text`.

        `images` is a picture or a list of pictures, in any form that the processor takes.
        """
        return self._encode("images", images, processor, batch_size, show_progress)

    @torch.no_grad()
    def _encode(
        self, kind: str, items: object, processor: PeMoEProcessor, batch_size: int, show_progress: bool
    ) -> np.ndarray:
        if batch_size < 1:
            raise ValueError(f"encode_{kind}: batch_size is {batch_size}, it must be at least 1")
        is_one = isinstance(items, str) or (kind == "images" and is_one_picture(items))
        items = [items] if is_one else items if hasattr(items, "__len__") else list(items)
        was_training = self.training
        parts = [np.zeros((0, self.config.num_experts * self.config.embed_dim), dtype=np.float32)]
        self.eval()
        try:
            for start in tqdm(range(0, len(items), batch_size), disable=not show_progress, desc="encode"):
                inputs = processor(**{kind: items[start : start + batch_size]}).to(self.device)
                parts.append(self(**inputs, return_dict=True).pooler_output.cpu().numpy())
        finally:
            self.train(was_training)
        return np.concatenate(parts)


def fuse_text(output: PeMoEOutput) -> Tensor:
    """Query side of Eq. (1) as one inner product: `[g_1 t_1 ... g_E t_E]`, `(Q, E * D)`."""
    return (output.gate_weights.unsqueeze(-1) * output.text_embeds).flatten(1)


def fuse_images(output: PeMoEOutput) -> Tensor:
    """Gallery side of Eq. (1): `[v_1 ... v_E]`, `(G, E * D)`."""
    return output.image_embeds.flatten(1)


def _require_gradient(states: Tensor | None) -> Tensor | None:
    """Let gradients reach the experts' weights through reentrant checkpoints, which start from an input's gradient."""
    return states if states is None or states.requires_grad else states.detach().requires_grad_()
