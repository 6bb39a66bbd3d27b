"""Recipes: whole training runs as YAML files, the packaged ones beside this code."""

from pemoe.trainers.recipes.fields import (
    GateRecipe,
    HardNegativeRecipe,
    MineRecipe,
    ModelRecipe,
    Recipe,
    StageRecipe,
    ValidationRecipe,
)
from pemoe.trainers.recipes.reading import build, data_recipe, load_recipe, read_config, resolve_repo

__all__ = [
    "GateRecipe",
    "HardNegativeRecipe",
    "MineRecipe",
    "ModelRecipe",
    "Recipe",
    "StageRecipe",
    "ValidationRecipe",
    "build",
    "data_recipe",
    "load_recipe",
    "read_config",
    "resolve_repo",
]
