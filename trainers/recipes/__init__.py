"""Recipes: whole training runs as YAML files, the packaged ones beside this code."""

from pemoe.trainers.recipes.fields import (
    GateRecipe,
    HardNegativeRecipe,
    MineRecipe,
    ModelRecipe,
    Recipe,
    StageRecipe,
)
from pemoe.trainers.recipes.reading import build, data_recipe, load_recipe, read_config, resolve_repo

__all__ = [
    "GateRecipe",
    "HardNegativeRecipe",
    "MineRecipe",
    "ModelRecipe",
    "Recipe",
    "StageRecipe",
    "build",
    "data_recipe",
    "load_recipe",
    "read_config",
    "resolve_repo",
]
