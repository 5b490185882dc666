"""A data set's images at the network's input size."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from yolo.data.augment.geometry import Tile
from yolo.data.dataset import ImageRecord
from yolo.data.image.cache import ImageCache
from yolo.data.image.decode import read_image
from yolo.data.image.letterbox import resize_long_side, size_at_long_side


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
            image = read_image(record.path, record.width, record.height, self.size)
            image = resize_long_side(image, self.size, (record.height, record.width))
            if self.cache:
                self.cache.put(record, image)
        return image

    def tile(self, index: int) -> Tile:
        """An image and its boxes; the image is read if it is visible in the sample."""
        return tile_of(self.records[index], self.size, partial(self.__getitem__, index))


def tile_of(record: ImageRecord, size: int, read: Callable[[], np.ndarray]) -> Tile:
    """The image that `read` returns, long side at `size` pixels, and its boxes in those pixels, without crowds."""
    rows, columns = size_at_long_side(record.height, record.width, size)
    is_single = ~record.crowd
    scale = size / max(record.width, record.height)
    return Tile(read, rows, columns, record.boxes[is_single] * scale, record.classes[is_single])
