"""The values of a recipe that stay `auto` until the ranks run, settled by measuring or from the checkpoint."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolo.errors import RecipeError
from yolo.recipe import ResolvedRecipe, prepare
from yolo.recipe.resolve.prepare import PreparedRecipe
from yolo.training.checkpointing.metadata import saved_setting
from yolo.training.engine.distributed import (
    DistributedContext,
    broadcast_object,
    local_world_size_from_launcher,
    world_size_from_launcher,
)
from yolo.training.loop.auto_precision import PrecisionChoice, measure_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecipeRequest:
    """A recipe's file and overrides."""

    path: Path
    overrides: tuple[str, ...]

    def with_overrides(self, *further: str) -> "RecipeRequest":
        """The same with further overrides, which win."""
        return replace(self, overrides=(*self.overrides, *further))

    def prepare(self) -> PreparedRecipe:
        """The recipe for the ranks that the launcher started. Raises RecipeError if it cannot work."""
        world_size, local_world_size = world_size_from_launcher(), local_world_size_from_launcher()
        return prepare(self.path, self.overrides, world_size, local_world_size)


def settle(
    request: RecipeRequest,
    prepared: PreparedRecipe,
    context: DistributedContext,
    checkpoint: Path | None,
) -> PreparedRecipe:
    """Settle micro batch and precision, the same on all ranks: as in the checkpoint, else as measured. Collective."""
    further: list[str] = []
    if micro_batch := _micro_batch(prepared.resolved, context, checkpoint):
        further.append(micro_batch)
    if prepared.resolved.loaded.recipe.precision.dtype == "auto":
        choice = _precision(request.with_overrides(*further), prepared, context, checkpoint)
        logger.info(choice.reason)
        further.append(f"precision.dtype={choice.dtype}")
    return request.with_overrides(*further).prepare() if further else prepared


def _micro_batch(
    resolved: ResolvedRecipe, context: DistributedContext, checkpoint: Path | None
) -> str | None:
    """For `train.micro_batch: auto`: an override with the checkpoint's, if that divides a rank's share of the batch.

    BatchNorm normalises over the images of a micro batch: a run that resumes with another number of ranks would otherwise
    learn something else.
    """
    saved = _saved(context, checkpoint, "train.micro_batch")
    train, loaded = resolved.recipe.train, resolved.loaded.recipe.train
    is_open = loaded.micro_batch == "auto" and loaded.gradient_accumulation_steps == "auto"
    if not is_open or saved is None or saved == train.micro_batch:
        return None
    fits = train.global_batch % (saved * context.world_size) == 0
    return f"train.micro_batch={saved}" if fits else None


def _precision(
    request: RecipeRequest,
    prepared: PreparedRecipe,
    context: DistributedContext,
    checkpoint: Path | None,
) -> PrecisionChoice:
    """For `precision.dtype: auto`: the checkpoint's if the run resumes, else the fastest."""
    if dtype := _saved(context, checkpoint, "precision.dtype"):
        return PrecisionChoice(dtype, f"precision auto: {dtype}, as in the checkpoint")

    def can_work(dtype: str) -> bool:
        try:
            request.with_overrides(f"precision.dtype={dtype}").prepare()
        except RecipeError:
            return False
        return True

    return measure_precision(prepared.resolved.recipe, context, can_work)


def _saved(context: DistributedContext, checkpoint: Path | None, key: str) -> Any:
    """A setting of the checkpoint, as the main rank reads it; None if there is none."""
    value = saved_setting(checkpoint, key) if context.is_main and checkpoint else None
    return broadcast_object(context, value)
