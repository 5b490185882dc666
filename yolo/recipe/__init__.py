"""Read, validate and resolve recipes, and convert them to DeepSpeed's JSON. Never imports torch."""

from yolo.recipe.deepspeed.config import canonical_text, deepspeed_config
from yolo.recipe.load.merge import LoadedRecipe, load_recipe
from yolo.recipe.prepare import PreparedRecipe, prepare, prepare_loaded
from yolo.recipe.resolve.resolve import ResolvedRecipe, resolve
from yolo.recipe.schema.recipe import Recipe

__all__ = [
    "LoadedRecipe",
    "PreparedRecipe",
    "Recipe",
    "ResolvedRecipe",
    "canonical_text",
    "deepspeed_config",
    "load_recipe",
    "prepare",
    "prepare_loaded",
    "resolve",
]
