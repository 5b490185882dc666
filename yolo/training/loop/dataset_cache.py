"""Where a run keeps its decoded images: one place for all ranks of a machine."""

import logging
import os
from pathlib import Path

from yolo.data.dataset import DetectionDataset
from yolo.data.image.cache import ImageCache, disk_budget, memory_budget
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import DistributedContext, all_gather_object

logger = logging.getLogger(__name__)

GB = 10**9


def open_cache(
    dataset: DetectionDataset,
    share: float,
    recipe: Recipe,
    context: DistributedContext,
) -> ImageCache | None:
    """The kept images of a split, or None where the recipe wants none; collective.

    `share`: of the budget, because both splits have one.
    """
    section, size = recipe.data, recipe.model.image_size
    if section.cache == "none":
        return None
    file = cache_folder(recipe) / f"{dataset.fingerprint[:16]}-{size}.images"
    given = section.cache_gb
    budget = int(share * (given * GB if given != "auto" else _free(recipe, file)))
    if section.cache == "disk":
        budgets = all_gather_object(context, budget)
        kept = ImageCache(dataset.records, size, budgets[_first_here(context)], file)
    else:
        kept = _shared_memory(dataset, size, budget, context)
    where = f"in {file}" if section.cache == "disk" else "in memory"
    what = f"{kept.capacity} of {len(dataset.records)}"
    logger.info(f"data.cache: room for {what} decoded images, {kept.bytes / GB:.2f} GB {where}")
    return kept


def cache_folder(recipe: Recipe) -> Path:
    """Where `data.cache: disk` keeps its files."""
    if recipe.data.cache_folder != "auto":
        return Path(recipe.data.cache_folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolo-images"


def _free(recipe: Recipe, file: Path) -> int:
    return disk_budget(file) if recipe.data.cache == "disk" else memory_budget()


def _first_here(context: DistributedContext) -> int:
    """The first rank on this machine: launchers count machine by machine."""
    return context.rank - context.local_rank


def _shared_memory(
    dataset: DetectionDataset, size: int, budget: int, context: DistributedContext
) -> ImageCache:
    """The memory that the first rank of each machine has opened."""
    own = ImageCache.in_memory(dataset.records, size, budget) if context.local_rank == 0 else None
    offers = all_gather_object(context, (own.path, budget) if own else None)
    if own:
        return own
    path, budget = offers[_first_here(context)]
    try:
        descriptor = os.open(path, os.O_RDWR)
    except (
        OSError
    ):  # the ranks of this machine do not see each other, as in containers of their own
        return ImageCache.in_memory(dataset.records, size, budget // context.local_world_size)
    return ImageCache(dataset.records, size, budget, descriptor)
