"""`PeMoETrainingArguments`: what a stage of PE-MoE training adds to the Trainer's arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from pemoe.modeling_pemoe.losses_pemoe import LOSSES, MAX_LOG_SCALE, SAME_PLACE, InfoNCELoss
from pemoe.trainers.data import AUGMENTS
from pemoe.trainers.errors import TrainingError, check_choice, check_range

CAPTION_COLUMNS = ("captions", "refined_captions")
GATE_LOSSES = ("platform", "retrieval", "both")
UNLOADABLE_STRATEGIES = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)  # a model without its code, and pickles


class Stage(NamedTuple):
    """One training stage of a run.

    trains: "experts", one platform's at a step; "gate"; or "unified", one expert for all platforms, from which those
    of the platforms then start. loss: "contrastive" (InfoNCE), "hard_negative" (triplets, and InfoNCE beside them) or
    "gate". mixed: a batch holds all platforms, not one. needs_negatives: hard negatives are mined before it.
    """

    trains: str
    loss: str
    mixed: bool = False
    needs_negatives: bool = False


STAGES = {  # in the order a run takes them; a stage's name is its field in a recipe and its folder in a run
    "unified": Stage("unified", "contrastive", mixed=True),
    "contrastive": Stage("experts", "contrastive"),
    "hard_negative": Stage("experts", "hard_negative", needs_negatives=True),
    "gate": Stage("gate", "gate", mixed=True),
}


@dataclass
class PeMoETrainingArguments(TrainingArguments):
    """Arguments of `PeMoETrainer`; only what differs from `transformers.TrainingArguments` is listed.

    Args:
        stage: a key of `STAGES`: "contrastive" (InfoNCE), "hard_negative" (triplets with mined negatives), "gate", or
            "unified" (InfoNCE of a model with one expert for all platforms).
        caption_column: "refined_captions", or "captions" for the raw ones.
        same_place: how InfoNCE treats another image of the same place: "mask", "multi_positive" or "negative".
        loss: a key of `LOSSES`, for what is called InfoNCE here; `label_smoothing_factor` is its label smoothing, and
            that of the gate's cross-entropy.
        hardness: of loss "hard_weighted", see `InfoNCELoss`; None for the others.
        loss_direction: "symmetric", or "t2i" for text to image alone.
        temperature: None to learn it; a number, 0.01 at least, fixes it.
        margin: of the triplet loss, in cosine.
        info_nce_weight: how much InfoNCE counts beside the triplet loss in stage "hard_negative".
        augment: of satellite pictures "sanitized" or "transform", of all "crop", or "none" (see `PairAugmentation`).
        gate_loss: "platform" (cross-entropy on the platform), "retrieval" (InfoNCE through Eq. 1) or "both".

    Changed defaults: `learning_rate` 2e-5 and `weight_decay` 1e-4 (the paper's), `per_device_train_batch_size` 128,
    `max_steps` must be given (batches are drawn by step, see `PlatformBatchSampler`), `remove_unused_columns` False,
    `ddp_find_unused_parameters` True (idle experts get no gradient), `logging_strategy` "no".

    Raises:
        TrainingError: unknown choices, numbers out of range, no `max_steps`, gradient accumulation (it is no larger
            contrastive batch), or a `hub_strategy` that pushes raw checkpoints.
    """

    stage: str = field(default="contrastive", metadata={"help": ", ".join(STAGES)})
    caption_column: str = field(default="refined_captions", metadata={"help": "refined_captions or captions"})
    same_place: str = field(default="mask", metadata={"help": ", ".join(SAME_PLACE)})
    loss: str = field(default="info_nce", metadata={"help": ", ".join(LOSSES)})
    hardness: float | None = field(default=None, metadata={"help": "weight of hard negatives, loss hard_weighted"})
    loss_direction: str = field(default="symmetric", metadata={"help": "symmetric or t2i"})
    temperature: float | None = field(default=None, metadata={"help": "fixed, at least 0.01; None learns it"})
    margin: float = field(default=0.2, metadata={"help": "triplet margin, in cosine"})
    info_nce_weight: float = field(default=1.0, metadata={"help": "weight of InfoNCE beside the triplet loss"})
    augment: str = field(default="none", metadata={"help": ", ".join(AUGMENTS)})
    gate_loss: str = field(default="platform", metadata={"help": "platform, retrieval or both"})
    learning_rate: float = field(default=2e-5)
    weight_decay: float = field(default=1e-4)
    per_device_train_batch_size: int = field(default=128)
    remove_unused_columns: bool | None = field(default=False)
    ddp_find_unused_parameters: bool | None = field(default=True)
    logging_strategy: str = field(default="no")

    def __post_init__(self) -> None:
        check_choice("stage", self.stage, tuple(STAGES))
        check_choice("caption_column", self.caption_column, CAPTION_COLUMNS)
        build_loss(self.loss, self.same_place, self.hardness, self.label_smoothing_factor, self.loss_direction)
        check_temperature(self.temperature)
        check_choice("augment", self.augment, AUGMENTS)
        check_choice("gate_loss", self.gate_loss, GATE_LOSSES)
        check_range("margin", self.margin, 0, 2)
        check_range("info_nce_weight", self.info_nce_weight, 0)
        check_range("learning_rate", self.learning_rate, 0)
        if self.max_steps < 1:
            raise TrainingError("max_steps: give the number of steps of this stage, at least 1")
        if self.hub_strategy in UNLOADABLE_STRATEGIES:
            what = f"hub_strategy: {HubStrategy(self.hub_strategy).value!r} pushes checkpoints that nobody can load"
            raise TrainingError(f"{what}, with pickled files; use 'end' or 'every_save'")
        if self.gradient_accumulation_steps != 1:
            reason = "accumulated small batches are no larger contrastive batch"
            advice = "use activation_checkpointing=True or more processes instead"
            raise TrainingError(f"gradient_accumulation_steps: must be 1, since {reason}; {advice}")
        super().__post_init__()


def build_loss(
    loss: str, same_place: str, hardness: float | None, label_smoothing: float, direction: str
) -> InfoNCELoss:
    """The loss of these arguments; TrainingError for one that is unknown, out of range, or that it would not use."""
    check_choice("loss", loss, tuple(LOSSES))
    check_range("label_smoothing", label_smoothing, 0, 1)
    if hardness is not None:
        check_range("hardness", hardness, 0)
    options = {"same_place": same_place, "label_smoothing": label_smoothing, "direction": direction}
    try:
        return LOSSES[loss](hardness=hardness, **options)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def check_temperature(temperature: float | None) -> None:
    """Refuse (TrainingError) a fixed temperature whose inverse the losses would clamp."""
    if temperature is not None:
        check_range("temperature", temperature, round(math.exp(-MAX_LOG_SCALE), 9))
