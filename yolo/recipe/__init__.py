"""Recipes: read, validated, resolved for a number of ranks, and turned into DeepSpeed's JSON. Never imports torch."""

from yolo.recipe.deepspeed_json import canonical_text, deepspeed_config
from yolo.recipe.loading import LoadedRecipe, load_recipe
from yolo.recipe.prepare import prepare
from yolo.recipe.resolve import ResolvedRecipe, resolve
from yolo.recipe.schema import Recipe

__all__ = [
    "LoadedRecipe",
    "Recipe",
    "ResolvedRecipe",
    "canonical_text",
    "deepspeed_config",
    "load_recipe",
    "prepare",
    "resolve",
]
