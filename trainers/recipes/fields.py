"""What a recipe may say: its fields, their defaults, and the numbers that are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pemoe.modeling_pemoe import PeMoEConfig
from pemoe.trainers.arguments import CAPTION_COLUMNS, GATE_LOSSES, STAGES
from pemoe.trainers.data import AUGMENTS, DataRecipe
from pemoe.trainers.errors import TrainingError, check_choice, check_range

PLATFORM_ORDERS = ("auto", "alternate", "one_by_one")
SCHEDULERS = (  # transformers' own that need no arguments beside the numbers of steps
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)


@dataclass(frozen=True)
class ModelRecipe:
    """What training starts from: backbones, "tiny:text" and "tiny:vision" being the shipped small ones.

    options: further fields of `PeMoEConfig`.
    """

    text_repo: str = "BAAI/bge-m3"
    vision_repo: str = "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k"
    text_revision: str | None = None
    vision_revision: str | None = None
    platforms: list = field(default_factory=lambda: ["satellite", "drone", "ground"])
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class StageRecipe:
    """One stage; `steps` 0 leaves it out. `save_steps` 0 writes no checkpoint inside the stage."""

    steps: int = 0
    learning_rate: float = 2e-5
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    lr_scheduler_type: str = "cosine"
    save_steps: int = 0


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
class MineRecipe:
    """Mining between the stages; see `mine_split`."""

    k: int = 10
    positive_ratio: float | None = None


@dataclass(frozen=True)
class Recipe:
    """A run: data, model and stages.

    seed: of everything drawn; caption_column: "refined_captions" or "captions"; global_batch_size: pairs per step over
    all processes; precision: "float32" or "bfloat16" (autocast and a bf16 trunk); cache_image_states: keep the trunk's
    output of every training image in memory (images cannot be augmented then); augment: of satellite pictures, see
    `PairAugmentation`; platform_order: of a stage of experts, "alternate" (a step of one, a step of the next),
    "one_by_one" (all steps of one, then of the next) or "auto" (one by one under DeepSpeed, which moves idle experts,
    else alternate); then the stages, see `STAGES`: with `unified`, the experts start from a unified model trained
    on the same captions, else from the backbones.
    """

    seed: int = 0
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    caption_column: str = "refined_captions"
    global_batch_size: int = 128
    precision: str = "float32"
    cache_image_states: bool = False
    augment: str = "none"
    num_workers: int = 0
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
        check_choice("platform_order", self.platform_order, PLATFORM_ORDERS)
        check_choice("gate.gate_loss", self.gate.gate_loss, GATE_LOSSES)
        if self.cache_image_states and self.augment != "none":
            raise TrainingError("augment: pictures whose states are cached cannot be augmented; use one of the two")
        if self.global_batch_size < 2:
            raise TrainingError(f"global_batch_size: {self.global_batch_size} leaves no negatives, use at least 2")
        if self.contrastive.steps < 1:
            raise TrainingError("contrastive.steps: give the number of steps of the first stage, at least 1")
        has_gate = len(self.model.platforms) > 1 and self.model.options.get("gate") != "uniform"
        if self.gate.steps and self.gate.gate_loss == "platform" and not has_gate:
            raise TrainingError("gate.steps: one platform or the uniform gate leaves nothing to learn; set it to 0")
        _check_ranges(self)
        unknown = sorted(set(self.model.options) - set(PeMoEConfig.__annotations__))
        if unknown:
            raise TrainingError(f"model.options: PeMoEConfig has no field {unknown[0]!r}")

    @property
    def stages(self) -> dict[str, StageRecipe]:
        """The training stages that have steps, by name, in the order of the run."""
        return {name: getattr(self, name) for name in STAGES if getattr(self, name).steps}

    @property
    def pairs_seen(self) -> int:
        """Text-image pairs of the whole run where no platform has fewer places than the batch."""
        return self.global_batch_size * sum(stage.steps for stage in self.stages.values())


def _check_ranges(recipe: Recipe) -> None:
    """Refuse numbers that would only fail hours later, after the first stage."""
    check_range("seed", recipe.seed, 0, 2**32 - 1)
    check_range("num_workers", recipe.num_workers, 0)
    check_range("mine.k", recipe.mine.k, 1)
    if recipe.mine.positive_ratio is not None:
        check_range("mine.positive_ratio", recipe.mine.positive_ratio, 0, 1)
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
        check_choice(f"{name}.lr_scheduler_type", stage.lr_scheduler_type, SCHEDULERS)
