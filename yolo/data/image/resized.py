"""A data set's images at the network's input size, and the check that all can be used."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from yolo.data.dataset import ImageRecord, Problem
from yolo.data.image.cache import ImageCache
from yolo.data.image.decode import UnusableImage, read_image
from yolo.data.image.letterbox import resize_bilinear, resize_long_side, size_at_long_side
from yolo.data.progress_protocol import ProgressCallback

Problems = dict[int, tuple[Problem, str]]
"""Index of a record -> what is wrong with its image, and an example for the report."""


@dataclass(frozen=True, slots=True)
class Tile:
    """An image to place on the plane; it is read only if some of it is visible."""

    read: Callable[[], np.ndarray]
    """Returns the image (rows, columns, 3) uint8."""
    rows: int
    columns: int
    boxes: np.ndarray
    """(M, 4) xyxy in the image's own pixels."""
    classes: np.ndarray
    """(M,)"""
    left: int = 0
    top: int = 0
    """Position of its upper left corner on the plane."""


class ResizedImages:
    """Images with their long side at `size` pixels, from the cache or decoded no larger than needed."""

    def __init__(self, records: Sequence[ImageRecord], size: int, cache: ImageCache | None) -> None:
        self.records = records
        self.size = size
        self.cache = cache

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image (H, W, 3) uint8 BGR, read-only. Raises UnusableImage naming the file."""
        record = self.records[index]
        image = self.cache.get(record) if self.cache else None
        if image is None:
            image = self._read(record)
            if self.cache:
                self.cache.put(record, image)
        return image

    def _read(self, record: ImageRecord) -> np.ndarray:
        image = read_image(record.path, record.width, record.height, self.size)
        return resize_long_side(image, self.size, (record.height, record.width))

    def tile(self, index: int) -> Tile:
        """An image and its boxes; the image is read if it is visible in the sample."""
        return tile_of(self.records[index], self.size, partial(self.__getitem__, index))


class EvaluationImages(ResizedImages):
    """Images to evaluate on, resized as `Predictor` does it, so that both find the same objects."""

    def _read(self, record: ImageRecord) -> np.ndarray:
        return resize_bilinear(read_image(record.path, record.width, record.height), self.size)


def tile_of(record: ImageRecord, size: int, read: Callable[[], np.ndarray]) -> Tile:
    """The image that `read` returns, long side at `size` pixels, and its boxes in those pixels, without crowds."""
    rows, columns = size_at_long_side(record.height, record.width, size)
    is_single = ~record.crowd
    scale = size / max(record.width, record.height)
    return Tile(read, rows, columns, record.boxes[is_single] * scale, record.classes[is_single])


def verify_images(
    images: ResizedImages,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 2,
    advance: ProgressCallback = lambda images: None,
) -> Problems:
    """Decode every `world_size`-th image, starting at `rank`; returns those that cannot be used.

    So bad images are reported at the start of a run instead of hours later. Fills the images' cache, if they have one;
    cached images are not decoded again. `advance` is called after each image. Merge the results of all ranks for
    `DetectionDataset.without`.
    """

    def check(index: int) -> UnusableImage | None:
        try:
            images[index]
        except UnusableImage as error:
            return error
        return None

    indices = range(rank, len(images), world_size)
    problems: Problems = {}
    with ThreadPoolExecutor(threads) as pool:
        for index, error in zip(indices, pool.map(check, indices), strict=True):
            if error is not None:
                problems[index] = (error.problem, str(error))
            advance(1)
    return problems
