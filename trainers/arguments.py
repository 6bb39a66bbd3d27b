"""`PeMoETrainingArguments`: what a stage of PE-MoE training adds to the Trainer's arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, IntervalStrategy

from pemoe.modeling_pemoe.losses_pemoe import LOSSES, MAX_LOG_SCALE, SAME_PLACE, InfoNCELoss
from pemoe.trainers.batches.pairs import AUGMENTS, check_views
from pemoe.trainers.errors import TrainingError, check_choice, check_range
from pemoe.trainers.monitoring import check_reporters, default_reporters
from pemoe.trainers.options import METRIC_SCHEDULERS, check_arguments, refused_in_one_line

CAPTION_COLUMNS = ("captions", "refined_captions")
NEIGHBOURS = ("none", "embedding", "metres")
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


def check_neighbours(where: str, trains_gate: bool, neighbours: str, refresh_steps: int) -> None:
    """Refuse near-neighbour batches that a stage could not draw, or a refresh that would do nothing; else nothing.

    `where` stands before the names of the options, "contrastive." for one.
    """
    check_choice(f"{where}neighbours", neighbours, NEIGHBOURS)
    check_range(f"{where}neighbour_refresh_steps", refresh_steps, 0)
    if trains_gate and neighbours != "none":
        raise TrainingError(f"{where}neighbours: the gate's batches are drawn at random; use 'none'")
    if refresh_steps and neighbours != "embedding":
        raise TrainingError(f"{where}neighbour_refresh_steps: only neighbours 'embedding' are refreshed; set it to 0")


def check_read_ahead(where: str, refresh_steps: int, num_workers: int, prefetch_factor: int | None = None) -> None:
    """Refuse (TrainingError) more batches read ahead than the steps between two refreshes of near places."""
    ahead = num_workers * (prefetch_factor or 2) + 1
    if 0 < refresh_steps < ahead:
        what = f"{where}neighbour_refresh_steps: {refresh_steps} is less than the {ahead} batches that are read ahead"
        raise TrainingError(f"{what}; refresh less often, or use fewer num_workers")


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
        augmented_views: ways in which each picture is augmented, visits taking turns; 0 draws a new one each time.
        neighbours: which places share a batch: "none" (random ones), or near ones, by "embedding" (of the pictures, by
            the expert in training) or by "metres" between coordinates; see `NeighbourTables`. Not for stage "gate".
        neighbour_refresh_steps: embed anew every so many steps; 0 embeds once, before the first step.
        gate_loss: "platform" (cross-entropy on the platform), "retrieval" (InfoNCE through Eq. 1) or "both".
        platforms: of a stage of experts, those to train; None: all that data and model share.
        chunk_size: pairs that a process embeds at a time, for batches that memory would not hold; loss and gradient
            are those of the whole batch (see `loss_in_chunks`). None embeds all at once.

    `gradient_accumulation_steps=N` means a batch N times as large, embedded in N chunks: it becomes
    `per_device_train_batch_size` times N, `chunk_size` (where none is given) the batch size before, and itself 1.
    `torch_compile` compiles the layers of the experts, each in place, not the model as a whole.

    Changed defaults: `learning_rate` 2e-5 and `weight_decay` 1e-4 (the paper's), `per_device_train_batch_size` 128,
    `max_steps` must be given (batches are drawn by step, see `PlatformBatchSampler`) and takes the place of
    `num_train_epochs`, 0, `metric_for_best_model` "recall_at_1", `remove_unused_columns` False,
    `ddp_find_unused_parameters` True (idle experts get no gradient), `logging_steps` 50 with the first step and the
    last, `report_to` "tensorboard" where it is installed, `logging_nan_inf_filter` False (training stops instead).

    Raises:
        TrainingError: unknown choices, numbers out of range, no `max_steps`, a `hub_strategy` that pushes raw
            checkpoints, a learning-rate schedule that lacks something, or any option that would be ignored:
            docs/training.md lists all.
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
    augmented_views: int = field(default=0, metadata={"help": "ways to augment a picture, 0 for no limit"})
    gate_loss: str = field(default="platform", metadata={"help": "platform, retrieval or both"})
    chunk_size: int | None = field(default=None, metadata={"help": "pairs embedded at a time; None: all"})
    num_train_epochs: float = field(default=0.0)
    neighbours: str = field(default="none", metadata={"help": "none, embedding or metres"})
    neighbour_refresh_steps: int = field(default=0, metadata={"help": "steps between embeddings of near places"})
    platforms: list[str] | None = field(default=None, metadata={"help": "platforms to train, all by default"})
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
        self._check_stage()
        self._check_numbers()
        if self.hub_strategy in UNLOADABLE_STRATEGIES:
            what = f"hub_strategy: {HubStrategy(self.hub_strategy).value!r} pushes checkpoints that nobody can load"
            raise TrainingError(f"{what}, with pickled files; use 'end' or 'every_save'")
        if self.gradient_accumulation_steps > 1:  # a contrastive loss needs the whole batch: it is cut, not added up
            self.chunk_size = self.chunk_size or self.per_device_train_batch_size
            self.per_device_train_batch_size *= self.gradient_accumulation_steps
            self.gradient_accumulation_steps = 1
        follows_figure = self.lr_scheduler_type in METRIC_SCHEDULERS
        if follows_figure or self.load_best_model_at_end or self.save_strategy == "best":
            self.metric_for_best_model = self.metric_for_best_model or "recall_at_1"  # evaluate gives no loss
        check_reporters(self.report_to)
        self.report_to = default_reporters() if self.report_to is None else self.report_to
        with refused_in_one_line():
            super().__post_init__()
        if follows_figure:  # transformers' own default is "min", whatever the figure
            mode = "max" if self.greater_is_better else "min"
            self.lr_scheduler_kwargs = {"mode": mode, **(self.lr_scheduler_kwargs or {})}
        check_arguments(self)
        if self.logging_first_step is None:
            self.logging_first_step = self.logging_strategy != IntervalStrategy.NO

    def _check_stage(self) -> None:
        """Refuse choices that no stage, or not this one, offers."""
        check_choice("stage", self.stage, tuple(STAGES))
        check_choice("caption_column", self.caption_column, CAPTION_COLUMNS)
        build_loss(self.loss, self.same_place, self.hardness, self.label_smoothing_factor, self.loss_direction)
        check_choice("augment", self.augment, AUGMENTS)
        check_views(self.augment, self.augmented_views, cached=False)
        check_choice("gate_loss", self.gate_loss, GATE_LOSSES)
        if self.platforms is not None and STAGES[self.stage].trains != "experts":
            raise TrainingError(f"platforms: stage {self.stage!r} trains no experts of single platforms; leave it out")
        check_neighbours("", STAGES[self.stage].trains == "gate", self.neighbours, self.neighbour_refresh_steps)

    def _check_numbers(self) -> None:
        """Refuse numbers out of range."""
        check_temperature(self.temperature)
        check_range("margin", self.margin, 0, 2)
        for name in ("info_nce_weight", "learning_rate", "weight_decay", "label_smoothing_factor"):
            check_range(name, getattr(self, name), 0)
        if self.label_smoothing_factor >= 1:
            raise TrainingError(f"label_smoothing_factor: {self.label_smoothing_factor} must lie below 1")
        if self.max_steps < 1:
            raise TrainingError("max_steps: give the number of steps of this stage, at least 1")
        check_range("gradient_accumulation_steps", self.gradient_accumulation_steps, 1)
        if self.chunk_size is not None:
            check_range("chunk_size", self.chunk_size, 1)

    @property
    def in_chunks(self) -> bool:
        """Whether a process's batch is embedded in pieces: the same on all processes, whatever rows a batch has."""
        return self.chunk_size is not None and self.chunk_size < self.per_device_train_batch_size


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
