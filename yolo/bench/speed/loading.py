"""Augmented images a second on one core, ours and the baseline's in turns."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import torch

from yolo.bench.baseline.data import PlainSamples
from yolo.bench.speed.photographs import draw_photographs
from yolo.bench.speed.results import SpeedRatio
from yolo.data.dataset import ImageRecord
from yolo.data.image.cache import ImageCache, memory_budget
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.sampler import SampleKey
from yolo.data.loader.samples import TrainingSamples
from yolo.recipe.schema.recipe import Recipe

BATCH = 16
PHOTOGRAPHS = 48
WIDTH, HEIGHT = 1920, 1280
DEGREES = 5.0
"""Of rotation, as the preset `high` has it: images then no longer lie upright, and must be warped."""


def compare_loading(
    recipe: Recipe, records: Sequence[ImageRecord], rounds: int, seconds: float
) -> list[SpeedRatio]:
    """With the data set's images kept decoded, and from photographs of 1,920 x 1,280 pixels with nothing kept.

    `seconds`: of each side in each round, by the clock of the calling thread's processor, which does all the work.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    size = recipe.model.image_size
    try:
        kept = ImageCache.in_memory(records, size, memory_budget())
        warm = ResizedImages(records, size, kept)
        for index in range(len(warm)):
            warm[index]
        with tempfile.TemporaryDirectory() as folder:
            photographs = draw_photographs(Path(folder), PHOTOGRAPHS, WIDTH, HEIGHT)
            cold = ResizedImages(photographs, size, None)
            jpegs = f"{WIDTH} x {HEIGHT} JPEGs"
            return [
                _compared(name, images, chosen, rounds, seconds)
                for name, images, chosen in (
                    ("images kept", warm, recipe),
                    ("images kept, turned as well", warm, _with(recipe, degrees=DEGREES)),
                    (f"{jpegs}, none kept", cold, recipe),
                    (
                        f"{jpegs}, none kept, mosaic_from batch",
                        cold,
                        _with(recipe, mosaic_from="batch"),
                    ),
                )
            ]
    finally:
        cv2.setNumThreads(threads)


def _with(recipe: Recipe, **changes: object) -> Recipe:
    augmentation = recipe.data.augmentation.model_copy(update=changes)
    data = recipe.data.model_copy(update={"augmentation": augmentation})
    return recipe.model_copy(update={"data": data})


def _compared(
    name: str,
    images: ResizedImages,
    recipe: Recipe,
    rounds: int,
    seconds: float,
) -> SpeedRatio:
    ours, plain = TrainingSamples(images, recipe), PlainSamples(images.records, recipe)
    count = len(images)

    def our_batch(number: int) -> None:
        ours.__getitems__([SampleKey(0, (number * BATCH + i) % count) for i in range(BATCH)])

    def plain_batch(number: int) -> None:
        torch.stack([plain[(number * BATCH + i) % count][0] for i in range(BATCH)])

    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, batch in zip(rates, (our_batch, plain_batch), strict=True):
            side.append(_rate(batch, seconds))
    name = f"loader at {images.size} px, {name}"
    return SpeedRatio(name, "images/s a core", True, tuple(rates[0]), tuple(rates[1]))


def _rate(batch: Callable[[int], None], seconds: float) -> float:
    batch(0)
    number = 1
    begun = time.process_time()
    while (spent := time.process_time() - begun) < seconds:
        batch(number)
        number += 1
    return BATCH * (number - 1) / spent
