"""`PeMoETrainingArguments`: what a stage of PE-MoE training adds to the Trainer's arguments."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from pemoe.trainers.augmentation import AUGMENTS
from pemoe.trainers.errors import TrainingError

STAGES = ("contrastive", "hard_negative", "gate")
CAPTION_COLUMNS = ("captions", "refined_captions")
GATE_LOSSES = ("platform", "retrieval", "both")


@dataclass
class PeMoETrainingArguments(TrainingArguments):
    """Arguments of `PeMoETrainer`; only what differs from `transformers.TrainingArguments` is listed.

    Args:
        stage: "contrastive" (InfoNCE), "hard_negative" (triplets with mined negatives) or "gate".
        caption_column: "refined_captions", or "captions" for the raw ones.
        same_place: how InfoNCE treats another image of the same place: "mask" or "multi_positive".
        margin: of the triplet loss, in cosine.
        info_nce_weight: how much InfoNCE counts beside the triplet loss in stage "hard_negative".
        augment: of satellite pictures: "none", "sanitized" or "transform" (see `PairAugmentation`).
        gate_loss: "platform" (cross-entropy on the platform), "retrieval" (InfoNCE through Eq. 1) or "both".

    Changed defaults: `learning_rate` 2e-5 and `weight_decay` 1e-4 (the paper's), `per_device_train_batch_size` 128,
    `max_steps` must be given (batches are drawn by step, see `PlatformBatchSampler`), `remove_unused_columns` False,
    `ddp_find_unused_parameters` True (idle experts get no gradient), `logging_strategy` "no".

    Raises:
        TrainingError: unknown choices, no `max_steps`, or gradient accumulation (it is no larger contrastive batch).
    """

    stage: str = field(default="contrastive", metadata={"help": "contrastive, hard_negative or gate"})
    caption_column: str = field(default="refined_captions", metadata={"help": "refined_captions or captions"})
    same_place: str = field(default="mask", metadata={"help": "mask or multi_positive"})
    margin: float = field(default=0.2, metadata={"help": "triplet margin, in cosine"})
    info_nce_weight: float = field(default=1.0, metadata={"help": "weight of InfoNCE beside the triplet loss"})
    augment: str = field(default="none", metadata={"help": "none, sanitized or transform"})
    gate_loss: str = field(default="platform", metadata={"help": "platform, retrieval or both"})
    learning_rate: float = field(default=2e-5)
    weight_decay: float = field(default=1e-4)
    per_device_train_batch_size: int = field(default=128)
    remove_unused_columns: bool | None = field(default=False)
    ddp_find_unused_parameters: bool | None = field(default=True)
    logging_strategy: str = field(default="no")

    def __post_init__(self) -> None:
        choices = {
            "stage": STAGES,
            "caption_column": CAPTION_COLUMNS,
            "gate_loss": GATE_LOSSES,
            "augment": AUGMENTS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise TrainingError(f"{name}: {getattr(self, name)!r} is unknown, use one of {', '.join(allowed)}")
        if self.max_steps < 1:
            raise TrainingError("max_steps: give the number of steps of this stage, at least 1")
        if self.gradient_accumulation_steps != 1:
            raise TrainingError(
                "gradient_accumulation_steps: must be 1, since accumulated small batches are no larger contrastive "
                "batch; use activation_checkpointing or more processes instead"
            )
        super().__post_init__()
