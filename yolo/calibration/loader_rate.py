"""Images/s of a rank's data loader while all ranks load at once."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import deepspeed.comm as dist

from yolo.calibration.collectives import mean_over_ranks
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.loader import TrainingLoader
from yolo.data.open import load_split
from yolo.data.shards.reader import Shards, open_shards
from yolo.data.shards.stream import StreamingLoader, training_loader
from yolo.errors import DataError
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import DistributedContext, all_gather_object
from yolo.training.loop.dataset_cache import open_cache

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

SECONDS = 5.0
"""Longest duration of each of two passes."""


def loader_images_per_second(recipe: Recipe, ranks: DistributedContext) -> float | None:
    """The mean over the ranks, with nothing computing; logs a line and returns None if a rank has no data. Collective."""
    open_split = open_shards if recipe.data.format == "shards" else load_split
    dataset = _on_all_ranks(ranks, lambda: open_split(recipe.data, "train"))
    if dataset is None:
        return None
    images: ResizedImages | Shards
    if isinstance(dataset, Shards):
        images = dataset
    else:
        kept = open_cache(dataset, "train", recipe, ranks)
        images = ResizedImages(dataset.records, recipe.model.image_size, kept)
    loader = training_loader(images, recipe, ranks.data_rank, ranks.data_ranks)

    def load() -> float:
        dist.barrier()
        return _pass(loader)

    if _on_all_ranks(ranks, load) is None:  # fills caches
        return None
    rate = _on_all_ranks(ranks, load)
    return None if rate is None else mean_over_ranks(ranks, rate)


def _on_all_ranks(ranks: DistributedContext, work: Callable[[], Result]) -> Result | None:
    """This rank's result; None on every rank if one fails with a DataError, which is logged. Collective."""
    result, problem = None, ""
    try:
        result = work()
    except DataError as error:
        problem = str(error)
    if problems := list(filter(None, all_gather_object(ranks, problem))):
        logger.info("no data to load, so no wait for it is predicted: %s", problems[0])
        return None
    return result


def _pass(loader: TrainingLoader | StreamingLoader) -> float:
    """Images/s from the first step's arrival on, if there are more steps: workers start before it."""
    begun = time.perf_counter()
    arrivals: list[tuple[float, int]] = []
    for micro_batches in loader.epoch(0):
        arrivals.append((time.perf_counter(), sum(len(batch.images) for batch in micro_batches)))
        if arrivals[-1][0] - begun > SECONDS:
            break
    if len(arrivals) > 1:
        begun, arrivals = arrivals[0][0], arrivals[1:]
    return sum(images for _, images in arrivals) / max(1e-6, arrivals[-1][0] - begun)
