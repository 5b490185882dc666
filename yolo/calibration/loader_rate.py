"""Images/s of a rank's data loader while all ranks load at once."""

import logging
import time

import deepspeed.comm as dist

from yolo.data.dataset import DetectionDataset
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.loader import TrainingLoader
from yolo.data.open import load_split
from yolo.data.shards.reader import Shards, open_shards
from yolo.data.shards.stream import StreamingLoader, training_loader
from yolo.errors import DataError
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import DistributedContext, all_gather_object
from yolo.training.loop.dataset_cache import open_cache
from yolo.training.loop.datasets import SHARE_OF_CACHE

logger = logging.getLogger(__name__)

SECONDS = 5.0
"""Longest duration of each of two passes."""


def loader_images_per_second(recipe: Recipe, ranks: DistributedContext) -> float | None:
    """The mean over the ranks, with nothing computing; logs a line and returns None if a rank has no data. Collective."""
    dataset: DetectionDataset | Shards | str
    try:
        is_streamed = recipe.data.format == "shards"
        dataset = (open_shards if is_streamed else load_split)(recipe.data, "train")
    except DataError as error:
        dataset = str(error)
    lack = dataset if isinstance(dataset, str) else ""
    if lacks := [each for each in all_gather_object(ranks, lack) if each]:
        logger.info("no data to load, so no wait for it is predicted: %s", lacks[0])
        return None
    images: ResizedImages | Shards
    if isinstance(dataset, DetectionDataset):
        kept = open_cache(dataset, SHARE_OF_CACHE["train"], recipe, ranks)
        images = ResizedImages(dataset.records, recipe.model.image_size, kept)
    else:
        assert isinstance(dataset, Shards)
        images = dataset
    loader = training_loader(images, recipe, ranks.rank, ranks.world_size)
    dist.barrier()
    rate: float | str
    try:
        _pass(loader)  # fills caches
        dist.barrier()
        rate = _pass(loader)
    except DataError as error:
        rate = str(error)
    rates = all_gather_object(ranks, rate)
    if lacks := [each for each in rates if isinstance(each, str)]:
        logger.info("no data to load, so no wait for it is predicted: %s", lacks[0])
        return None
    return sum(rates) / len(rates)


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
