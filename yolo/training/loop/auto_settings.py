"""What a recipe leaves open until ranks run: asked for again with the answer among its overrides."""

from dataclasses import dataclass, replace
from pathlib import Path

from yolo.errors import RecipeError
from yolo.recipe import ResolvedRecipe, prepare
from yolo.recipe.resolve.prepare import PreparedRecipe
from yolo.recipe.schema.recipe import Recipe
from yolo.training.checkpointing.metadata import saved_setting
from yolo.training.engine.distributed import (
    DistributedContext,
    broadcast_object,
    local_world_size_from_launcher,
    world_size_from_launcher,
)
from yolo.training.loop.auto_precision import PrecisionChoice, measure_precision


@dataclass(frozen=True, slots=True)
class RecipeRequest:
    """A recipe's file and the overrides it is asked for with."""

    path: Path
    overrides: tuple[str, ...]

    def with_overrides(self, *further: str) -> "RecipeRequest":
        """The same with some more, which win."""
        return replace(self, overrides=(*self.overrides, *further))

    def prepare(self) -> PreparedRecipe:
        """The recipe for the ranks that the launcher started. Raises RecipeError where it cannot work."""
        world_size, local_world_size = world_size_from_launcher(), local_world_size_from_launcher()
        return prepare(self.path, self.overrides, world_size, local_world_size)


def settle_micro_batch(
    resolved: ResolvedRecipe, ranks: DistributedContext, checkpoint: Path | None
) -> str | None:
    """For `train.micro_batch: auto`: the override that makes it the checkpoint's, where that divides a rank's share.

    BatchNorm normalises over the images of a micro batch: with another size, a run that goes on with another number of
    ranks would learn something else. Collective.
    """
    saved: int | None = None
    if ranks.is_main and checkpoint is not None:
        saved = saved_setting(checkpoint, "train.micro_batch")
    saved = broadcast_object(ranks, saved)
    train = resolved.recipe.train
    is_open = resolved.loaded.recipe.train.micro_batch == "auto"
    if not is_open or saved is None or saved == train.micro_batch:
        return None
    fits = train.global_batch % (saved * ranks.world_size) == 0
    is_accumulation_open = resolved.loaded.recipe.train.gradient_accumulation_steps == "auto"
    return f"train.micro_batch={saved}" if fits and is_accumulation_open else None


def settle_precision(
    asked: RecipeRequest, recipe: Recipe, ranks: DistributedContext, checkpoint: Path | None
) -> PrecisionChoice:
    """For `precision.dtype: auto`: the checkpoint's where the run goes on, else the fastest; collective."""
    saved: str | None = None
    if ranks.is_main and checkpoint is not None:
        saved = saved_setting(checkpoint, "precision.dtype")
    if dtype := broadcast_object(ranks, saved):
        return PrecisionChoice(dtype, f"precision auto: {dtype}, as the checkpoint has it")
    return measure_precision(recipe, ranks, lambda dtype: _can_work(asked, dtype))


def _can_work(asked: RecipeRequest, dtype: str) -> bool:
    try:
        asked.with_overrides(f"precision.dtype={dtype}").prepare()
    except RecipeError:
        return False
    return True
