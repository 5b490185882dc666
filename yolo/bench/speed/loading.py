"""Augmented images/s on one core: ours and the baseline's, alternating."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch

from yolo.bench.baseline.data import PlainSamples
from yolo.bench.speed.generated import draw_photographs
from yolo.bench.speed.speed_ratios import SpeedRatio
from yolo.data.image.cache import ImageCache, memory_budget
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.sampler import SampleKey
from yolo.data.loader.samples import TrainingSamples
from yolo.data.open import load_split
from yolo.recipe.schema.recipe import Recipe

BATCH = 16
PHOTOGRAPHS = 48
WIDTH, HEIGHT = 1920, 1280
DEGREES = 5.0
"""Rotation of the preset `high`: images are no longer upright, so they must be warped."""


def compare_loading(recipe: Recipe, rounds: int, seconds: float) -> list[SpeedRatio]:
    """Compare with the training split's images cached decoded, and with uncached photographs of 1,920 x 1,280 pixels.

    `seconds` is per side and round, in CPU time of the calling process, which does all the work.
    """
    records = load_split(recipe.data, "train").records
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    size = recipe.model.image_size
    try:
        cache = ImageCache.in_memory(records, size, memory_budget())
        warm = ResizedImages(records, size, cache)
        for index in range(len(warm)):
            warm[index]
        with tempfile.TemporaryDirectory() as folder:
            photographs = draw_photographs(Path(folder), PHOTOGRAPHS, WIDTH, HEIGHT)
            cold = ResizedImages(photographs, size, None)
            jpegs = f"{WIDTH} x {HEIGHT} JPEGs"
            rotated, of_batch = _with(recipe, degrees=DEGREES), _with(recipe, mosaic_from="batch")
            cases = (
                ("images kept", warm, recipe),
                ("images kept, turned as well", warm, rotated),
                (f"{jpegs}, none kept", cold, recipe),
                (f"{jpegs}, none kept, mosaic_from batch", cold, of_batch),
            )
            return [_compare(*case, rounds, seconds) for case in cases]
    finally:
        cv2.setNumThreads(threads)


def _with(recipe: Recipe, **changes: object) -> Recipe:
    augmentation = recipe.data.augmentation.model_copy(update=changes)
    data = recipe.data.model_copy(update={"augmentation": augmentation})
    return recipe.model_copy(update={"data": data})


def _compare(
    name: str, images: ResizedImages, recipe: Recipe, rounds: int, seconds: float
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
