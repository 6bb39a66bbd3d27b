"""Recipes: a whole training run as one YAML file, read strictly."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path

import yaml

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.sources.registry import detect_source
from pemoe.trainers.batches.pairs import DataRecipe
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.recipes.fields import OF_BACKBONES, Recipe

PACKAGED = resources.files("pemoe.trainers.recipes")
TINY_BACKBONES = resources.files("pemoe.trainers") / "tiny_backbones"


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by its packaged name or path.

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


def read_config(
    config: str,
    data: str | None = None,
    seed: int | None = None,
    checkpoint: str | None = None,
    platform: str | None = None,
) -> Recipe:
    """A recipe with what the command line names put in.

    Args:
        config: see `load_recipe`.
        data: see `data_recipe`.
        seed: of the recipe; also renders another campus.
        checkpoint: trained model to start from, in the place of the recipe's backbones and their options.
        platform: of the photos of a folder whose names and table do not say it.

    Raises TrainingError for a bad recipe, or one that needs a data directory or a checkpoint and got none.
    """
    recipe = load_recipe(config)
    if checkpoint is not None:
        brought = dict.fromkeys(OF_BACKBONES) | {"options": {}, "checkpoint": checkpoint}
        recipe = replace(recipe, model=replace(recipe.model, **brought))
    recipe.check_start()
    if data is not None:
        recipe = replace(recipe, data=data_recipe(data, recipe.data))
    if recipe.data.source != "campus" and recipe.data.root is None:
        raise TrainingError(f"recipe {config}: its source {recipe.data.source!r} lies on disk; give --data DIR")
    if platform is not None:
        if recipe.data.source != "folder":
            what = f"rows of source {recipe.data.source!r} say which they are of"
            raise TrainingError(f"--platform: {what}; it is for a folder of photos")
        options = {**recipe.data.options, "platform": platform}
        recipe = replace(recipe, data=replace(recipe.data, options=options))
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
