"""`PeMoETrainingArguments`: what a stage of PE-MoE training adds to the Trainer's arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, IntervalStrategy

from pemoe.modeling_pemoe.losses_pemoe import SAME_PLACE
from pemoe.trainers.data import AUGMENTS
from pemoe.trainers.errors import TrainingError, check_choice, check_range
from pemoe.trainers.monitoring import check_reporters, default_reporters

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
        same_place: how InfoNCE treats another image of the same place: "mask" or "multi_positive".
        margin: of the triplet loss, in cosine.
        info_nce_weight: how much InfoNCE counts beside the triplet loss in stage "hard_negative".
        augment: of satellite pictures: "none", "sanitized" or "transform" (see `PairAugmentation`).
        gate_loss: "platform" (cross-entropy on the platform), "retrieval" (InfoNCE through Eq. 1) or "both".
        chunk_size: pairs that a process embeds at a time, for batches that memory would not hold; loss and gradient
            are those of the whole batch (see `loss_in_chunks`). None embeds all at once.

    `gradient_accumulation_steps=N` means a batch N times as large, embedded in N chunks: it becomes
    `per_device_train_batch_size` times N, `chunk_size` (where none is given) the batch size before, and itself 1.

    Changed defaults: `learning_rate` 2e-5 and `weight_decay` 1e-4 (the paper's), `per_device_train_batch_size` 128,
    `max_steps` must be given (batches are drawn by step, see `PlatformBatchSampler`), `remove_unused_columns` False,
    `ddp_find_unused_parameters` True (idle experts get no gradient), `logging_steps` 50 with the first step and the
    last, `report_to` "tensorboard" where it is installed, `logging_nan_inf_filter` False (training stops instead).

    Raises:
        TrainingError: unknown choices, numbers out of range, no `max_steps`, or a `hub_strategy` that pushes raw
            checkpoints.
    """

    stage: str = field(default="contrastive", metadata={"help": ", ".join(STAGES)})
    caption_column: str = field(default="refined_captions", metadata={"help": "refined_captions or captions"})
    same_place: str = field(default="mask", metadata={"help": "mask or multi_positive"})
    margin: float = field(default=0.2, metadata={"help": "triplet margin, in cosine"})
    info_nce_weight: float = field(default=1.0, metadata={"help": "weight of InfoNCE beside the triplet loss"})
    augment: str = field(default="none", metadata={"help": "none, sanitized or transform"})
    gate_loss: str = field(default="platform", metadata={"help": "platform, retrieval or both"})
    chunk_size: int | None = field(default=None, metadata={"help": "pairs embedded at a time; None: all"})
    learning_rate: float = field(default=2e-5)
    weight_decay: float = field(default=1e-4)
    per_device_train_batch_size: int = field(default=128)
    remove_unused_columns: bool | None = field(default=False)
    ddp_find_unused_parameters: bool | None = field(default=True)
    logging_steps: float = field(default=50)
    logging_first_step: bool | None = field(default=None, metadata={"help": "None: unless logging_strategy is no"})
    logging_nan_inf_filter: bool = field(default=False)
    report_to: None | str | list[str] = field(  # noqa: RUF036 -- HfArgumentParser reads it in this order alone
        default=None, metadata={"help": "None: tensorboard where it is installed"}
    )

    def __post_init__(self) -> None:
        check_choice("stage", self.stage, tuple(STAGES))
        check_choice("caption_column", self.caption_column, CAPTION_COLUMNS)
        check_choice("same_place", self.same_place, SAME_PLACE)
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
        check_range("gradient_accumulation_steps", self.gradient_accumulation_steps, 1)
        if self.gradient_accumulation_steps > 1:  # a contrastive loss needs the whole batch: it is cut, not added up
            self.chunk_size = self.chunk_size or self.per_device_train_batch_size
            self.per_device_train_batch_size *= self.gradient_accumulation_steps
            self.gradient_accumulation_steps = 1
        if self.chunk_size is not None:
            check_range("chunk_size", self.chunk_size, 1)
        check_reporters(self.report_to)
        self.report_to = default_reporters() if self.report_to is None else self.report_to
        super().__post_init__()
        if self.logging_first_step is None:
            self.logging_first_step = self.logging_strategy != IntervalStrategy.NO

    @property
    def in_chunks(self) -> bool:
        """Whether a process's batch is embedded in pieces: the same on all processes, whatever rows a batch has."""
        return self.chunk_size is not None and self.chunk_size < self.per_device_train_batch_size
