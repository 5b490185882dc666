"""The files of ds_configs/: the DeepSpeed JSON of each recipe."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from yolo.recipe.deepspeed.config import canonical_text, deepspeed_config
from yolo.recipe.load.merge import LoadedRecipe, load_recipe
from yolo.recipe.resolve.machines import CPU_PROCESSES
from yolo.recipe.resolve.resolve import resolve

RECIPES = Path("recipes")


def planned_world_size(loaded: LoadedRecipe) -> int:
    """The ranks that a recipe requests; if it depends on the machine, those of a machine without GPUs."""
    cluster = loaded.recipe.cluster
    nodes, each = cluster.nodes, cluster.processes_per_node
    return (1 if nodes == "auto" else nodes) * (CPU_PROCESSES if each == "auto" else each)


def generated_path(recipe: Path, folder: Path) -> Path:
    """The file of a recipe's JSON: recipes/a/b.yaml -> ds_configs/a/b.json."""
    inside = recipe.relative_to(RECIPES) if recipe.is_relative_to(RECIPES) else Path(recipe.name)
    return (folder / inside).with_suffix(".json")


def generated_text(recipe: Path) -> str:
    """The content of a recipe's JSON, the same on every machine."""
    loaded = load_recipe(recipe)
    return canonical_text(deepspeed_config(resolve(loaded, planned_world_size(loaded)).recipe))


def write_generated(recipes: Iterable[Path], folder: Path) -> Iterator[Path]:
    """Write the JSON of each recipe; yields the files."""
    for recipe in recipes:
        path = generated_path(recipe, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(generated_text(recipe), encoding="utf-8")
        yield path
