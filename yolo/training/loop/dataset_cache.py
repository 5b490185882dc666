"""The cache of decoded images that all ranks of a machine share."""

import logging
import os
from pathlib import Path

from yolo.data.dataset import DetectionDataset
from yolo.data.image.cache import ImageCache, disk_budget, memory_budget
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import DistributedContext, all_gather_object

logger = logging.getLogger(__name__)

GB = 10**9
SHARE_OF_CACHE = {"train": 0.8, "val": 0.2}
"""COCO's validation split has a twentieth of the images, but is read at every evaluation."""
OF_SPLIT = {"train": "", "val": "-evaluation"}
"""In a file's name: images to evaluate on are resized in another way."""


def open_cache(
    dataset: DetectionDataset,
    split: str,
    recipe: Recipe,
    context: DistributedContext,
) -> ImageCache | None:
    """The image cache of the `train` or `val` split, or None if the recipe disables it; collective."""
    section, size = recipe.data, recipe.model.image_size
    if section.cache == "none":
        return None
    file = cache_folder(recipe) / f"{dataset.fingerprint[:16]}-{size}{OF_SPLIT[split]}.images"
    budget = int(SHARE_OF_CACHE[split] * _budget(recipe, file))
    if section.cache == "disk":
        budgets = all_gather_object(context, budget)
        cache = ImageCache(dataset.records, size, budgets[_first_here(context)], file)
    else:
        cache = _shared_memory(dataset, size, budget, context)
    where = f"in {file}" if section.cache == "disk" else "in memory"
    what = f"{cache.capacity} of {len(dataset.records)}"
    logger.info(f"data.cache: room for {what} decoded images, {cache.bytes / GB:.2f} GB {where}")
    return cache


def cache_folder(recipe: Recipe) -> Path:
    """The folder of `data.cache: disk`."""
    if recipe.data.cache_folder == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolo-images"
    return Path(recipe.data.cache_folder)


def _budget(recipe: Recipe, file: Path) -> float:
    """Bytes for the images of both splits."""
    if recipe.data.cache_gb == "auto":
        return disk_budget(file) if recipe.data.cache == "disk" else memory_budget()
    return recipe.data.cache_gb * GB


def _first_here(context: DistributedContext) -> int:
    """The first rank on this machine: launchers number the ranks machine by machine."""
    return context.rank - context.local_rank


def _shared_memory(
    dataset: DetectionDataset, size: int, budget: int, context: DistributedContext
) -> ImageCache:
    """The shared memory that the first rank of each machine created."""
    own = ImageCache.in_memory(dataset.records, size, budget) if context.local_rank == 0 else None
    offers = all_gather_object(context, (own.path, budget) if own else None)
    if own:
        return own
    path, budget = offers[_first_here(context)]
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:  # ranks of this machine do not see each other, for example in containers
        return ImageCache.in_memory(dataset.records, size, budget // context.local_world_size)
    return ImageCache(dataset.records, size, budget, descriptor)
