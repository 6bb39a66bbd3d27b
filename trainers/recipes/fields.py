"""What a recipe may say: its fields, their defaults, and the numbers that are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pemoe.modeling_pemoe import PeMoEConfig
from pemoe.retrieval.feature_cache import DTYPES
from pemoe.trainers.arguments import (
    CAPTION_COLUMNS,
    GATE_LOSSES,
    STAGES,
    build_loss,
    check_neighbours,
    check_read_ahead,
    check_temperature,
)
from pemoe.trainers.batches.pairs import AUGMENTS, DataRecipe, check_views
from pemoe.trainers.errors import TrainingError, check_choice, check_range
from pemoe.trainers.mining import MineRecipe
from pemoe.trainers.monitoring import REPORTERS
from pemoe.trainers.options import SCHEDULERS, check_schedule

EXPERT_TYPES = ("full", "lora")
PLATFORM_ORDERS = ("auto", "alternate", "one_by_one")
BACKBONES = {
    "text_repo": "BAAI/bge-m3",
    "vision_repo": "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k",
}
OF_THE_BACKBONES_ALONE = ("text_config", "vision_config", *BACKBONES, "text_revision", "vision_revision", "embed_dim")
OF_BACKBONES = (*BACKBONES, "text_revision", "vision_revision", "options")  # what a checkpoint brings


@dataclass(frozen=True)
class ModelRecipe:
    """What training starts from: a trained checkpoint, or backbones (null: the paper's), "tiny:text" and "tiny:vision"
    being the shipped small ones.

    platforms: to train; null, with a checkpoint: those of the training rows. options: further fields of `PeMoEConfig`,
    without a checkpoint. checkpoint: directory or Hub id of a PE-MoE model; init_from: its expert that platforms which
    it has not start from. expert_type: "full", or "lora": experts are frozen, adapters of `lora_rank` on them learn.
    """

    text_repo: str | None = None
    vision_repo: str | None = None
    text_revision: str | None = None
    vision_revision: str | None = None
    platforms: list | None = field(default_factory=lambda: ["satellite", "drone", "ground"])
    options: dict = field(default_factory=dict)
    checkpoint: str | None = None
    expert_type: str = "full"
    lora_rank: int = 8
    init_from: str | None = None

    def __post_init__(self) -> None:
        check_choice("model.expert_type", self.expert_type, EXPERT_TYPES)
        check_range("model.lora_rank", self.lora_rank, 1)
        if self.expert_type == "full" and self.lora_rank != ModelRecipe.lora_rank:
            raise TrainingError("model.lora_rank: is of adapters; set expert_type to lora, or leave it out")
        if self.checkpoint is None:
            for name, repo in BACKBONES.items():
                object.__setattr__(self, name, repo if getattr(self, name) is None else getattr(self, name))
        elif own := [name for name in OF_BACKBONES if getattr(self, name)]:
            raise TrainingError(f"model.{own[0]}: model.checkpoint brings its own; leave one of the two out")


@dataclass(frozen=True)
class StageRecipe:
    """One stage; `steps` 0 leaves it out. `save_steps` 0 writes no checkpoint inside the stage.

    neighbours, neighbour_refresh_steps: which places share a batch, see `PeMoETrainingArguments`.
    lr_scheduler_kwargs: what the schedule needs beside the numbers of steps, such as `{min_lr: 0.0000001}` of
    "cosine_with_min_lr" and `{num_decay_steps: 100}` of "warmup_stable_decay".
    """

    steps: int = 0
    learning_rate: float = 2e-5
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    lr_scheduler_type: str = "cosine"
    save_steps: int = 0
    neighbours: str = "none"
    neighbour_refresh_steps: int = 0
    lr_scheduler_kwargs: dict = field(default_factory=dict)


@dataclass(frozen=True)
class HardNegativeRecipe(StageRecipe):
    """Stage 2; see `PeMoETrainingArguments` for margin and weight."""

    margin: float = 0.2
    info_nce_weight: float = 1.0


@dataclass(frozen=True)
class GateRecipe(StageRecipe):
    """The gate's stage; see `PeMoETrainingArguments` for the losses."""

    gate_loss: str = "platform"


@dataclass(frozen=True)
class FeatureCacheRecipe:
    """How `cache_image_states` keeps them, see `FeatureCache`; without a directory in `feature_cache` of the run's."""

    directory: str | None = None
    dtype: str | None = None
    max_gb: float = 100.0
    batch_size: int = 64


@dataclass(frozen=True)
class ValidationRecipe:
    """Places of the training split that no stage sees; each evaluates on them every `eval_steps` steps and at its end.

    Queries are their captions of the recipe's `caption_column`; 0 places: none, `eval_steps` 0: at the end alone.
    """

    places: int = 0
    eval_steps: int = 0


@dataclass(frozen=True)
class Recipe:
    """A run: data, model and stages.

    seed: of everything drawn; caption_column: "refined_captions" or "captions"; global_batch_size: pairs per step over
    all processes; precision: "float32" or "bfloat16" (autocast and a bf16 trunk); cache_image_states: keep the trunk's
    outputs on disk, as `feature_cache` says; augment: of satellite pictures, see `PairAugmentation`, in
    `augmented_views` ways each (0: without end, which cannot be cached); chunk_size: pairs per process embedded at a
    time, None for all, with loss and gradient of the whole batch; activation_checkpointing: compute the experts'
    layers anew going back, for memory; logging_steps: steps between two logs, 0 for none; report_to: where logs go,
    integrations of transformers by name, None for TensorBoard where it is installed; platform_order: of a stage of
    experts, "alternate" (a step of one, a step of the next), "one_by_one" (all steps of one, then of the next) or
    "auto" (one by one under DeepSpeed, which moves idle experts, else alternate); then the stages, see `STAGES`: with
    `unified`, the experts start from a unified model trained on the same captions, else from the backbones.

    loss, same_place, hardness, label_smoothing, loss_direction, temperature: of every stage, see
    `PeMoETrainingArguments`, where label_smoothing is `label_smoothing_factor`.
    """

    seed: int = 0
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    caption_column: str = "refined_captions"
    global_batch_size: int = 128
    precision: str = "float32"
    cache_image_states: bool = False
    feature_cache: FeatureCacheRecipe = field(default_factory=FeatureCacheRecipe)
    augment: str = "none"
    augmented_views: int = 0
    num_workers: int = 0
    logging_steps: int = 50
    report_to: list | None = None
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    chunk_size: int | None = None
    activation_checkpointing: bool = False
    loss: str = "info_nce"
    same_place: str = "mask"
    hardness: float | None = None
    label_smoothing: float = 0.0
    loss_direction: str = "symmetric"
    temperature: float | None = None
    platform_order: str = "auto"
    unified: StageRecipe = field(default_factory=StageRecipe)
    contrastive: StageRecipe = field(default_factory=StageRecipe)
    mine: MineRecipe = field(default_factory=MineRecipe)
    hard_negative: HardNegativeRecipe = field(default_factory=HardNegativeRecipe)
    gate: GateRecipe = field(default_factory=GateRecipe)

    def __post_init__(self) -> None:
        check_choice("caption_column", self.caption_column, CAPTION_COLUMNS)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        check_choice("augment", self.augment, AUGMENTS)
        build_loss(self.loss, self.same_place, self.hardness, self.label_smoothing, self.loss_direction)
        check_temperature(self.temperature)
        check_choice("platform_order", self.platform_order, PLATFORM_ORDERS)
        check_choice("gate.gate_loss", self.gate.gate_loss, GATE_LOSSES)
        check_views(self.augment, self.augmented_views, self.cache_image_states)
        if self.feature_cache != FeatureCacheRecipe() and not self.cache_image_states:
            raise TrainingError("feature_cache: says how to cache, but cache_image_states is false; set it to true")
        if self.global_batch_size < 2:
            raise TrainingError(f"global_batch_size: {self.global_batch_size} leaves no negatives, use at least 2")
        if self.contrastive.steps < 1:
            raise TrainingError("contrastive.steps: give the number of steps of the first stage, at least 1")
        several = self.model.checkpoint is not None or self.model.platforms is None or len(self.model.platforms) > 1
        has_gate = several and self.model.options.get("gate") != "uniform"
        if self.gate.steps and self.gate.gate_loss == "platform" and not has_gate:
            raise TrainingError("gate.steps: one platform or the uniform gate leaves nothing to learn; set it to 0")
        _check_ranges(self)
        _check_logging(self)
        unknown = sorted(set(self.model.options) - set(PeMoEConfig.__annotations__))
        if unknown:
            raise TrainingError(f"model.options: PeMoEConfig has no field {unknown[0]!r}")
        if given := sorted(set(self.model.options) & set(OF_THE_BACKBONES_ALONE)):
            raise TrainingError(f"model.options: {given[0]} follows from the backbones; leave it out")
        if self.model.checkpoint is not None and self.unified.steps:
            raise TrainingError("unified.steps: would write over the experts of model.checkpoint; set it to 0")

    def check_start(self) -> None:
        """Refuse (TrainingError) a model part that needs a checkpoint and has none; a command line may yet name it."""
        spec = self.model
        if spec.checkpoint is not None:
            return
        advice = "name model.checkpoint (--checkpoint)"
        if spec.init_from is not None or spec.platforms is None:
            what = "init_from" if spec.init_from is not None else "platforms: null"
            raise TrainingError(f"model.{what}: is for a run that starts from a trained model; {advice}")
        if spec.expert_type == "lora" and not self.unified.steps:
            what = "an adapter on an expert that nothing has trained learns little"
            raise TrainingError(f"model.expert_type: {what}; add a unified stage, or {advice}")

    @property
    def stages(self) -> dict[str, StageRecipe]:
        """The training stages that have steps, by name, in the order of the run."""
        return {name: getattr(self, name) for name in STAGES if getattr(self, name).steps}

    @property
    def pairs_seen(self) -> int:
        """Text-image pairs of the whole run where no platform has fewer places than the batch."""
        return self.global_batch_size * sum(stage.steps for stage in self.stages.values())


def _check_logging(recipe: Recipe) -> None:
    for part in ("places", "eval_steps"):
        check_range(f"validation.{part}", getattr(recipe.validation, part), 0)
    if recipe.validation.eval_steps and not recipe.validation.places:
        raise TrainingError("validation.eval_steps: there is nothing to evaluate on; give validation.places")
    check_range("logging_steps", recipe.logging_steps, 0)
    for name in recipe.report_to or ():
        check_choice("report_to", name, REPORTERS)


def _check_ranges(recipe: Recipe) -> None:
    """Refuse numbers that would only fail hours later, after the first stage."""
    check_range("seed", recipe.seed, 0, 2**32 - 1)
    check_range("num_workers", recipe.num_workers, 0)
    if recipe.chunk_size is not None:
        check_range("chunk_size", recipe.chunk_size, 1)
    cache = recipe.feature_cache
    if cache.dtype is not None:
        check_choice("feature_cache.dtype", cache.dtype, tuple(DTYPES))
    check_range("feature_cache.max_gb", cache.max_gb, 0)
    check_range("feature_cache.batch_size", cache.batch_size, 1)
    check_range("hard_negative.margin", recipe.hard_negative.margin, 0, 2)
    check_range("hard_negative.info_nce_weight", recipe.hard_negative.info_nce_weight, 0)
    tokens = recipe.model.options.get("max_text_tokens")
    if isinstance(tokens, int):  # another type is the config's to refuse
        check_range("model.options.max_text_tokens", tokens, 3)  # start, one word, end
    for name in STAGES:
        stage = getattr(recipe, name)
        for part in ("steps", "weight_decay", "warmup_steps", "save_steps"):
            check_range(f"{name}.{part}", getattr(stage, part), 0)
        if not 0 < stage.learning_rate < math.inf:
            raise TrainingError(f"{name}.learning_rate: {stage.learning_rate} is out of range, use one above 0")
        check_neighbours(f"{name}.", name == "gate", stage.neighbours, stage.neighbour_refresh_steps)
        if stage.steps:
            check_read_ahead(f"{name}.", stage.neighbour_refresh_steps, recipe.num_workers)
        check_choice(f"{name}.lr_scheduler_type", stage.lr_scheduler_type, SCHEDULERS)
        if stage.steps:
            schedule = stage.lr_scheduler_type, stage.lr_scheduler_kwargs, stage.warmup_steps
            check_schedule(*schedule, stage.steps, stage.learning_rate, f"{name}.")
