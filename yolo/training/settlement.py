"""What a recipe leaves open until ranks run: asked for again with the answer among its overrides."""

from dataclasses import dataclass, replace
from pathlib import Path

from yolo.errors import RecipeError
from yolo.recipe import prepare
from yolo.recipe.prepare import PreparedRecipe
from yolo.recipe.schema import Recipe
from yolo.training.checkpoint import saved_setting
from yolo.training.precision import PrecisionChoice, measure_precision
from yolo.training.ranks import (
    Ranks,
    from_first,
    local_world_size_from_launcher,
    world_size_from_launcher,
)
from yolo.training.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Asked:
    """A recipe's file and the overrides it is asked for with."""

    path: Path
    overrides: tuple[str, ...]

    def with_overrides(self, *further: str) -> "Asked":
        """The same with some more, which win."""
        return replace(self, overrides=(*self.overrides, *further))

    def prepare(self) -> PreparedRecipe:
        """The recipe for the ranks that the launcher started. Raises RecipeError where it cannot work."""
        world_size, local_world_size = world_size_from_launcher(), local_world_size_from_launcher()
        return prepare(self.path, self.overrides, world_size, local_world_size)


def settle_precision(
    asked: Asked, recipe: Recipe, ranks: Ranks, run: RunDirectory
) -> PrecisionChoice:
    """For `precision.dtype: auto`: the checkpoint's where the run goes on, else the fastest; collective."""
    saved: str | None = None
    if ranks.is_first and run.newest_checkpoint is not None:
        saved = saved_setting(run.newest_checkpoint, "precision.dtype")
    if dtype := from_first(ranks, saved):
        return PrecisionChoice(dtype, f"precision auto: {dtype}, as the checkpoint has it")
    return measure_precision(recipe, ranks, lambda dtype: _can_work(asked, dtype))


def _can_work(asked: Asked, dtype: str) -> bool:
    try:
        asked.with_overrides(f"precision.dtype={dtype}").prepare()
    except RecipeError:
        return False
    return True
