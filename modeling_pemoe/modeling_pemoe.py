"""`PeMoEModel`: one frozen pair of encoders, one expert per platform, one gate that reads the query."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from .configuration_pemoe import PeMoEConfig
from .experts_pemoe import PlatformExpert
from .gates_pemoe import SoftmaxGate, build_gate
from .losses_pemoe import MAX_LOG_SCALE, InfoNCELoss
from .pretrained_pemoe import PeMoEPreTrainedModel
from .processing_pemoe import PeMoEProcessor
from .text_pemoe import build_text_layers, build_text_trunk, expand_text_mask, run_text_trunk
from .vision_pemoe import build_vision_encoder, rotary_table, run_vision_trunk, split_vision_encoder


@dataclass
class PeMoEOutput(ModelOutput):
    """What `PeMoEModel` returns; Q texts, G images, E experts (1 when `experts` names one), D dimensions, all fp32.

    Args:
        loss: InfoNCE, when `place_id` was given and Q = G.
        logits_per_text: `exp(logit_scale)` times Eq. (1), `(Q, G)`; None when `experts` was given.
        logits_per_image: its transpose, `(G, Q)`.
        text_embeds: `t_k`, unit rows, `(Q, E, D)`.
        image_embeds: `v_k`, unit rows, `(G, E, D)`.
        gate_weights: `g_k(q)`, rows sum to 1, `(Q, E)`; None when `experts` was given.
        gate_logits: before the softmax, `(Q, E)`; -inf for masked platforms.
        logit_scale: log inverse temperatures of the experts that ran, `(E,)`.
    """

    loss: Tensor | None = None
    logits_per_text: Tensor | None = None
    logits_per_image: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    gate_weights: Tensor | None = None
    gate_logits: Tensor | None = None
    logit_scale: Tensor | None = None


class PeMoEModel(PeMoEPreTrainedModel):
    """Text-to-image retrieval by platform experts over frozen encoders (PE-MoE).

    S(q, I) = sum_k g_k(q) cos(t_k, v_k)                                   (Eq. 1 of the paper)

    It is one inner product: query `[g_1 t_1 ... g_E t_E]`, gallery `[v_1 ... v_E]`, both `E * D` long.

    Args:
        config: the model's configuration; weights are random (see `from_backbones` and `from_pretrained`).

    Example:
        >>> model = PeMoEModel(PeMoEConfig.preset("tiny"))
        >>> model.get_image_features(torch.zeros(2, 3, 56, 56)).image_embeds.shape
        torch.Size([2, 3, 32])
    """

    def __init__(self, config: PeMoEConfig) -> None:
        super().__init__(config)
        self.text_trunk = build_text_trunk(config.text_config, config.text_expert_layers)
        encoder = build_vision_encoder(config.vision_config, config.image_size)
        parts = split_vision_encoder(encoder, config.vision_expert_layers)
        self.vision_trunk = parts.trunk
        self.experts = nn.ModuleDict()
        for name in config.platforms:
            self.experts[name] = PlatformExpert(
                build_text_layers(self.text_trunk, config.text_expert_layers, config.tail_dropout),
                copy.deepcopy(parts.blocks),
                copy.deepcopy(parts.norm),
                parts.norm_before_pool,
                parts.trunk.num_features,
                config.embed_dim,
                config.logit_scale_init,
            )
        self.gate = build_gate(config.gate, config.embed_dim, config.gate_hidden_dim, config.num_experts)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init)))
        self.freeze_trunks()
        self.post_init()

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
            return_dict: False for a tuple.

        Returns:
            `PeMoEOutput`.

        Raises:
            ValueError: no input, or an unknown expert.
        """
        if input_ids is None and pixel_values is None and image_states is None:
            raise ValueError("forward: give input_ids, pixel_values or both")
        names = self._expert_names(experts)
        output = PeMoEOutput(logit_scale=torch.stack([self.experts[name].logit_scale.float() for name in names]))
        if input_ids is not None:
            self._add_text(output, input_ids, attention_mask, names, with_gate=experts is None)
        if pixel_values is not None:
            image_states = self.encode_image_trunk(pixel_values)
        if image_states is not None:
            output.image_embeds = self._embed_images(image_states, names)
        if input_ids is not None and image_states is not None:
            with torch.autocast(output.text_embeds.device.type, enabled=False):  # scores are fp32 under autocast too
                self._add_scores(output, place_id, fused=experts is None)
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def _expert_names(self, experts: list[str] | None) -> list[str]:
        names = list(self.config.platforms) if experts is None else list(experts)
        unknown = [name for name in names if name not in self.experts]
        if unknown or not names:
            raise ValueError(f"experts: {unknown or names} is not among the platforms {list(self.config.platforms)}")
        return names

    def _add_text(
        self, output: PeMoEOutput, input_ids: Tensor, attention_mask: Tensor | None, names: list[str], with_gate: bool
    ) -> None:
        hidden = run_text_trunk(self.text_trunk, input_ids, attention_mask)  # (Q, S, D)
        tail_hidden = hidden.to(self.dtype_of_experts)
        mask = expand_text_mask(self.text_trunk, tail_hidden, attention_mask)
        embeds = [self.experts[name].embed_text(tail_hidden, mask) for name in names]
        output.text_embeds = torch.stack(embeds, dim=1)  # (Q, E, D)
        if with_gate:
            output.gate_weights, output.gate_logits = self.gate(hidden[:, 0], self.config.active_experts)

    def encode_image_trunk(self, pixel_values: Tensor) -> Tensor:
        """Token states at the end of the frozen image trunk: `(G, 3, H, W)` -> `(G, tokens, width)`, no gradient."""
        return run_vision_trunk(self.vision_trunk, pixel_values.to(self.dtype_of_trunk))

    def _embed_images(self, image_states: Tensor, names: list[str]) -> Tensor:
        rope = rotary_table(self.vision_trunk)
        embeds = [self.experts[name].embed_image(image_states, rope, self.vision_trunk) for name in names]
        return torch.stack(embeds, dim=1)  # (G, E, D)

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
            losses = [
                InfoNCELoss()(output.text_embeds[:, k], output.image_embeds[:, k], place_id, scale)["loss"]
                for k, scale in enumerate(output.logit_scale)
            ]
            output.loss = torch.stack(losses).mean()

    @property
    def dtype_of_experts(self) -> torch.dtype:
        """Dtype of the trainable tails (fp32 while training, whatever the trunk's)."""
        return next(iter(self.experts.values())).visual_projection.weight.dtype

    @property
    def dtype_of_trunk(self) -> torch.dtype:
        """Dtype of the frozen image trunk."""
        return next(self.vision_trunk.parameters()).dtype

    def train(self, mode: bool = True) -> PeMoEModel:
        """Switch to training; the frozen trunks stay in eval mode, so that their features carry no dropout noise."""
        super().train(mode)
        self.text_trunk.eval()
        self.vision_trunk.eval()
        return self

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
        """Fused query vectors `[g_1 t_1 ... g_E t_E]`, ready for an inner-product index.

        Args:
            texts: queries, none empty.
            processor: the checkpoint's processor.
            batch_size: texts per forward pass.
            show_progress: draw a progress bar.

        Returns:
            `(n, E * D)` fp32; not unit length, so compare by inner product, never by cosine.

        Raises:
            ValueError: an empty text.
        """
        return self._encode(
            texts,
            lambda batch: fuse_text(self.get_text_features(**processor(text=batch).to(self.device))),
            batch_size,
            show_progress,
        )

    def encode_images(
        self, images: list[Image.Image], processor: PeMoEProcessor, batch_size: int = 32, show_progress: bool = False
    ) -> np.ndarray:
        """Fused gallery vectors `[v_1 ... v_E]`; arguments as in `encode_text`, pictures instead of texts.

        Returns:
            `(n, E * D)` fp32, every row of norm sqrt(E).
        """
        return self._encode(
            images,
            lambda batch: fuse_images(self.get_image_features(**processor(images=batch).to(self.device))),
            batch_size,
            show_progress,
        )

    @torch.no_grad()
    def _encode(
        self, items: list, embed: Callable[[list], Tensor], batch_size: int, show_progress: bool
    ) -> np.ndarray:
        if isinstance(items, str):
            raise ValueError("encode_text: give a list of texts, not one string")
        was_training = self.training
        self.eval()
        try:
            starts = tqdm(range(0, len(items), batch_size), disable=not show_progress, desc="encode")
            rows = [embed(items[start : start + batch_size]).cpu().numpy() for start in starts]
        finally:
            self.train(was_training)
        width = self.config.num_experts * self.config.embed_dim
        return np.concatenate(rows) if rows else np.zeros((0, width), dtype=np.float32)

    @torch.no_grad()
    def add_platform(self, name: str, init_from: str) -> None:
        """Add one expert, started as a copy of another; the other experts and the scores do not move.

        The new platform is masked in the config (gate weight 0) until a gate stage includes it. Build optimizers
        after this call: the gate's last layer is a new, longer parameter.

        Args:
            name: the new platform.
            init_from: the platform whose expert is copied.

        Raises:
            ValueError: a name that cannot be used, or an unknown `init_from`.

        Example:
            >>> model.add_platform("infrared", init_from="drone")  # doctest: +SKIP
        """
        self._expert_names([init_from])
        config = copy.deepcopy(self.config)
        config.platforms = [*config.platforms, name]
        config.masked_platforms = [*config.masked_platforms, name]
        config.validate_platforms()
        self.experts[name] = copy.deepcopy(self.experts[init_from])
        self.gate = self._grown_gate(config.num_experts)
        self.config.platforms, self.config.masked_platforms = config.platforms, config.masked_platforms

    def _grown_gate(self, num_experts: int) -> nn.Module:
        gate = self._fresh_gate(self.config.gate, num_experts)
        if isinstance(self.gate, SoftmaxGate) and isinstance(gate, SoftmaxGate):
            gate.hidden = copy.deepcopy(self.gate.hidden)
            gate.output.weight.zero_()[: num_experts - 1] = self.gate.output.weight
            gate.output.bias.zero_()[: num_experts - 1] = self.gate.output.bias
        return gate

    def _fresh_gate(self, name: str, num_experts: int) -> nn.Module:
        gate = build_gate(name, self.config.embed_dim, self.config.gate_hidden_dim, num_experts)
        return gate.to(self.device, self.dtype_of_experts).train(self.training)

    def set_gate(self, name: str) -> None:
        """Replace the gate by a fresh one, in the config too; build optimizers after this call.

        Args:
            name: a key of `GATES`.

        Raises:
            ValueError: unknown name; the model is unchanged.
        """
        self.gate = self._fresh_gate(name, self.config.num_experts)
        self.config.gate = name

    def share_trunks(self, platforms: list[str] | None = None) -> PeMoEModel:
        """A second model on the same frozen trunks (the modules themselves, no copies), with experts of its own.

        Args:
            platforms: None for copies of this model's experts, gate and temperatures; else the new model's platforms:
                every expert starts as a copy of this model's first one, none is masked, the gate is fresh (drawn
                without moving torch's global random state). `["all"]` gives the unified model.

        Returns:
            The model, with this one's device, dtypes and training mode.

        Raises:
            ValueError: names that cannot be used.

        Example:
            >>> unified = model.share_trunks(["all"])  # doctest: +SKIP
        """
        # what deepcopy finds in `memo` it takes as copied; the text layers read the text trunk's configuration object
        memo = {id(part): part for part in (self.text_trunk, self.text_trunk.config, self.vision_trunk)}
        if platforms is not None:
            config = copy.deepcopy(self.config)
            config.platforms, config.masked_platforms = list(platforms), []
            config.validate_platforms()
            first = next(iter(self.experts.values()))
            experts = nn.ModuleDict({name: copy.deepcopy(first, dict(memo)) for name in platforms})
            with torch.random.fork_rng(devices=[]):
                gate = self._fresh_gate(config.gate, config.num_experts)
            memo |= {id(self.config): config, id(self.experts): experts.train(self.training), id(self.gate): gate}
        return copy.deepcopy(self, memo)


def fuse_text(output: PeMoEOutput) -> Tensor:
    """Query side of Eq. (1) as one inner product: `[g_1 t_1 ... g_E t_E]`, `(Q, E * D)`."""
    return (output.gate_weights.unsqueeze(-1) * output.text_embeds).flatten(1)


def fuse_images(output: PeMoEOutput) -> Tensor:
    """Gallery side of Eq. (1): `[v_1 ... v_E]`, `(G, E * D)`."""
    return output.image_embeds.flatten(1)
