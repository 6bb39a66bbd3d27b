"""Recipes: a whole training run as one YAML file, read strictly."""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import yaml

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.sources.registry import detect_source
from pemoe.modeling_pemoe import PeMoEConfig
from pemoe.trainers.arguments import CAPTION_COLUMNS, GATE_LOSSES, STAGES
from pemoe.trainers.data import AUGMENTS, DataRecipe
from pemoe.trainers.errors import TrainingError, check_choice, check_range

PACKAGED = resources.files("pemoe.trainers") / "recipes"
TINY_BACKBONES = resources.files("pemoe.trainers") / "tiny_backbones"

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
    `PairAugmentation`; then the stages, see `STAGES`: with `unified`, the experts start from a unified model trained
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
    unified: StageRecipe = field(default_factory=StageRecipe)
    contrastive: StageRecipe = field(default_factory=StageRecipe)
    mine: MineRecipe = field(default_factory=MineRecipe)
    hard_negative: HardNegativeRecipe = field(default_factory=HardNegativeRecipe)
    gate: GateRecipe = field(default_factory=GateRecipe)

    def __post_init__(self) -> None:
        check_choice("caption_column", self.caption_column, CAPTION_COLUMNS)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        check_choice("augment", self.augment, AUGMENTS)
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


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by its packaged name ("quickstart", "campus", "paper") or path.

    Raises TrainingError: no such recipe, not YAML, an unknown key or a value of the wrong type (the place is named).

    Example:
        >>> load_recipe("paper").global_batch_size
        128
    """
    path = Path(name) if Path(name).suffix else Path(str(PACKAGED / f"{name}.yaml"))
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix(".yaml") for p in PACKAGED.iterdir() if p.name.endswith(".yaml")))
        raise TrainingError(f"recipe {name}: no such file, and the packaged ones are {known}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"recipe {path}: not valid YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise TrainingError(f"recipe {path}: expected keys and values, got {type(content).__name__}")
    if "unified_steps" in content and "unified" in content:
        raise TrainingError(f"recipe {path}: unified_steps and unified say the same; keep unified")
    if "unified_steps" in content:  # of earlier versions: stage `unified` with the settings of `contrastive`
        settings, steps = content.get("contrastive"), content.pop("unified_steps")
        unified = {**(settings if isinstance(settings, dict) else {}), "steps": steps}
        content = {**content, "unified": unified}
    return build(Recipe, content, str(path))


def data_recipe(data: str, packaged: DataRecipe | None = None) -> DataRecipe:
    """The recipe of what a user names: "campus", a directory of any source, or a data set on the Hub; else DataError.

    `packaged` is the recipe's own data, kept where that is the campus too; None stands for the quickstart's.
    """
    source = detect_source(data)
    if source != "campus":
        return DataRecipe(source=source, root=data)
    return packaged if packaged is not None and packaged.source == source else load_recipe("quickstart").data


def read_config(config: str, data: str | None = None, seed: int | None = None) -> Recipe:
    """A recipe with the command line's data directory and seed put in; a seed also renders another campus.

    Raises TrainingError for a bad recipe, or one that needs a data directory and got none.
    """
    recipe = load_recipe(config)
    if data is not None:
        recipe = replace(recipe, data=data_recipe(data, recipe.data))
    if recipe.data.source != "campus" and recipe.data.root is None:
        raise TrainingError(f"recipe {config}: its source {recipe.data.source!r} lies on disk; give --data DIR")
    if seed is None:
        return recipe
    options = {**recipe.data.options, "seed": seed} if recipe.data.source == "campus" else recipe.data.options
    return replace(recipe, seed=seed, data=replace(recipe.data, options=options))


def build(recipe_class: type, content: dict, where: str) -> object:
    """Make a (nested) recipe dataclass of plain values, refusing unknown keys and wrong types."""
    fields = {f.name: f for f in dataclasses.fields(recipe_class)}
    values = {}
    for key, value in content.items():
        if key not in fields:
            raise TrainingError(f"recipe {where}: unknown key {key!r}, use one of {', '.join(fields)}")
        default = fields[key].default
        if default is dataclasses.MISSING:
            default = fields[key].default_factory()
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise TrainingError(f"recipe {where}: {key} must hold keys and values, got {value!r}")
            values[key] = build(type(default), value, f"{where}: {key}")
        else:
            values[key] = _checked(key, value, fields[key].type, where)
    return recipe_class(**values)


def resolve_repo(repo: str) -> str:
    """The directory of a shipped small backbone ("tiny:text"), or the name as it is."""
    return str(TINY_BACKBONES / repo.removeprefix("tiny:")) if repo.startswith("tiny:") else repo


def _checked(key: str, value: object, annotation: str, where: str) -> object:
    if value is None and "None" in annotation:
        return None
    name = annotation.split(" ")[0]
    if name == "float" and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(value)  # YAML reads 1e-3 as a string
    elif type(value).__name__ == name:  # by name: True is no int
        return value
    raise TrainingError(f"recipe {where}: {key} must be {annotation}, got {value!r}")
