"""One step of a stage: what the model embeds of a batch, and the loss of it with its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from pemoe.modeling_pemoe import PeMoEModel, TripletLoss
from pemoe.modeling_pemoe.losses_pemoe import smooth_labels
from pemoe.modeling_pemoe.modeling_pemoe import fuse_images, fuse_text
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments, build_loss
from pemoe.trainers.batches.pairs import NUMBERS, TEXTS, model_inputs
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.parallel.distributed import gather_with_grad, gather_without_grad, row_counts


class StepRecord(TypedDict):
    """What the last step found, detached, in one piece as in chunks.

    parts: the loss under "loss" and its parts by name, as weighted in the sum, 0-d. embeds: of the joined batch, as
    `StageLoss.join` gives them, with its `place_id` and `platform_id`. batch: this process's own `place_id`,
    `platform_id` and, with negatives, `has_negative`.
    """

    parts: dict[str, Tensor]
    embeds: dict[str, Tensor]
    batch: dict[str, Tensor]


class StageLoss:
    """The loss of a stage in two halves, so that a batch may be embedded in pieces and its loss still be the whole's.

    `embed` runs the model on this process's rows, `join` adds those of the others, `score` gives the loss; the call
    does the last two.

    Args:
        args: which stage, and its losses.
        model: whose experts are trained, without a wrapper around it.
        platform_names: of the numbers in a batch's `platform_id`.
    """

    def __init__(self, args: PeMoETrainingArguments, model: PeMoEModel, platform_names: Sequence[str]) -> None:
        self.args, self.kind, self.model, self.platform_names = args, STAGES[args.stage].loss, model, platform_names
        smoothing = args.label_smoothing_factor
        self.info_nce = build_loss(args.loss, args.same_place, args.hardness, smoothing, args.loss_direction)
        self.triplet = TripletLoss(margin=args.margin)

    def expert_of(self, platform_id: Tensor) -> str:
        """Name of the expert a batch belongs to; a mixed batch belongs to the unified model's only one."""
        names = list(self.model.config.platforms)
        return names[0] if self.model.config.is_unified else self.platform_names[int(platform_id[0])]

    def inputs_of(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the model reads of a batch in this stage: texts alone where only the gate's choice counts."""
        inputs = model_inputs(batch)
        if self.kind == "gate" and self.args.gate_loss == "platform":
            return {name: part for name, part in inputs.items() if name in TEXTS}
        return inputs

    def embed(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the loss needs of this process's B pairs.

        Returns:
            Of a stage of experts: `query`, `gallery` and, with negatives, `negative`, `(B, D)` unit rows, and
            `logit_scale`, 0-d. Of a gate stage: `gate_logits (B, E)`, and with a retrieval loss `query` and `gallery`
            `(B, E * D)` of Eq. (1) and `logit_scale`.
        """
        inputs = self.inputs_of(batch)
        if self.kind == "gate":
            return self._embed_for_gate(model, inputs)
        output = model(**inputs, experts=[self.expert_of(batch["platform_id"])])
        query, images = output.text_embeds[:, 0], output.image_embeds[:, 0]  # (B, D), (B or 2B, D)
        embeds = {"query": query, "gallery": images[: len(query)], "logit_scale": output.logit_scale[0]}
        return {**embeds, "negative": images[len(query) :]} if self.kind == "hard_negative" else embeds

    def _embed_for_gate(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        output = model(**inputs)
        if self.args.gate_loss == "platform":
            return {"gate_logits": output.gate_logits}
        fused = {"query": fuse_text(output), "gallery": fuse_images(output), "logit_scale": self.model.logit_scale}
        return {"gate_logits": output.gate_logits, **fused}

    def __call__(self, embeds: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of the joined batch under "loss", and its parts by name, 0-d each; `embeds` as `embed` gives."""
        return self.score(self.join(embeds, batch))

    def join(self, embeds: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows of all processes, in the order of their ranks: `embeds` with gradient, the batch's numbers without.

        Returns:
            What `embed` gives, with J rows in place of B (J is the sum of the processes' B), and `place_id`,
            `platform_id (J,)`, and `has_negative (J,)` where the batch has it.
        """
        counts = row_counts(batch["place_id"])
        rows = {name: gather_with_grad(part, counts) for name, part in embeds.items() if name != "logit_scale"}
        scale = {name: part for name, part in embeds.items() if name == "logit_scale"}
        numbers = {name: gather_without_grad(batch[name], counts) for name in NUMBERS if name in batch}
        return {**rows, **scale, **numbers}

    def score(self, joined: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss under "loss" and its parts by name, 0-d each, of what `join` gives."""
        parts = {}
        if self.kind == "gate" and self.args.gate_loss != "retrieval":
            target = self._experts_of(joined["platform_id"])
            logits = joined["gate_logits"]
            platform = F.cross_entropy(logits, target, ignore_index=-1)
            parts["platform"] = smooth_labels(platform, logits[target >= 0], self.args.label_smoothing_factor)
        if "query" in joined:
            pairs = joined["query"], joined["gallery"]  # (J, D) each
            parts["info_nce"] = self.info_nce(*pairs, joined["place_id"], joined["logit_scale"])["loss"]
            if self.kind == "hard_negative":
                parts.update(self._triplet(*pairs, joined["negative"], joined["has_negative"]))
                parts["info_nce"] = self.args.info_nce_weight * parts["info_nce"]
        return {
            "loss": torch.stack(list(parts.values())).sum() if len(parts) > 1 else parts[next(iter(parts))],
            **parts,
        }

    def _triplet(self, query: Tensor, gallery: Tensor, negative: Tensor, has_negative: Tensor) -> dict[str, Tensor]:
        """The triplets of the rows that have a negative; nothing where no row has."""
        if not has_negative.any():
            return {}
        triplets = (vectors[has_negative] for vectors in (query, gallery, negative))  # (n, D) each
        return {"triplet": self.triplet(*triplets)["loss"]}

    def _experts_of(self, platform_id: Tensor) -> Tensor:
        """Place on the E axis of each row's platform, `(B,)`; -1 where the model has no expert for it."""
        names = list(self.model.config.platforms)
        expert_of_platform = torch.tensor([names.index(p) if p in names else -1 for p in self.platform_names])
        return expert_of_platform.to(platform_id.device)[platform_id]


def fix_temperature(model: PeMoEModel, args: PeMoETrainingArguments) -> None:
    """Set the temperatures that a stage would learn to `args.temperature` and freeze them; None leaves all as it is.

    Raises TrainingError for a stage of experts that learns none, as beside an adapter of peft's own.
    """
    if args.temperature is None:
        return
    owners = [owner for owner in (model, *model.experts.values()) if owner.logit_scale.requires_grad]
    if not owners and STAGES[args.stage].trains != "gate":
        raise TrainingError("temperature: an adapter of peft does not hold it; leave it out")
    for owner in owners:
        owner.logit_scale.data.fill_(-math.log(args.temperature))
        owner.logit_scale.requires_grad_(False)
