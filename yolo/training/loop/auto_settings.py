"""The values of a recipe that stay `auto` until the ranks run, settled by measuring or from the checkpoint."""

import logging
from pathlib import Path
from typing import Any

from yolo.errors import RecipeError
from yolo.recipe import PreparedRecipe, ResolvedRecipe
from yolo.training.checkpointing.metadata import saved_setting
from yolo.training.engine.distributed import DistributedContext, broadcast_object
from yolo.training.loop.auto_precision import PrecisionChoice, measure_precision

logger = logging.getLogger(__name__)


def settle(
    prepared: PreparedRecipe, context: DistributedContext, checkpoint: Path | None
) -> PreparedRecipe:
    """Settle micro batch and precision, the same on all ranks: as in the checkpoint, else as measured. Collective."""
    if micro_batch := _micro_batch(prepared.resolved, context, checkpoint):
        prepared = prepared.with_values(f"train.micro_batch={micro_batch}")
    if prepared.resolved.loaded.recipe.precision.dtype == "auto":
        choice = _precision(prepared, context, checkpoint)
        logger.info(choice.reason)
        prepared = prepared.with_values(f"precision.dtype={choice.dtype}")
    return prepared


def _micro_batch(
    resolved: ResolvedRecipe, context: DistributedContext, checkpoint: Path | None
) -> int | None:
    """For `train.micro_batch: auto`: the checkpoint's, if that divides a rank's share of the batch.

    BatchNorm normalises over the images of a micro batch: a run that resumes with another number of ranks would otherwise
    learn something else.
    """
    saved: int | None = _saved(context, checkpoint, "train.micro_batch")
    train, loaded = resolved.recipe.train, resolved.loaded.recipe.train
    ranks = resolved.recipe.sharding.data
    is_open = loaded.micro_batch == "auto" and loaded.gradient_accumulation_steps == "auto"
    if not is_open or saved is None or saved == train.micro_batch:
        return None
    return saved if train.global_batch % (saved * ranks) == 0 else None


def _precision(
    prepared: PreparedRecipe, context: DistributedContext, checkpoint: Path | None
) -> PrecisionChoice:
    """For `precision.dtype: auto`: the checkpoint's if the run resumes, else the fastest."""
    if dtype := _saved(context, checkpoint, "precision.dtype"):
        return PrecisionChoice(dtype, f"precision auto: {dtype}, as in the checkpoint")

    def can_work(dtype: str) -> bool:
        try:
            prepared.with_values(f"precision.dtype={dtype}")
        except RecipeError:
            return False
        return True

    return measure_precision(prepared.resolved.recipe, context, can_work)


def _saved(context: DistributedContext, checkpoint: Path | None, key: str) -> Any:
    """A setting of the checkpoint, as the main rank reads it; None if there is none."""
    value = saved_setting(checkpoint, key) if context.is_main and checkpoint else None
    return broadcast_object(context, value)
