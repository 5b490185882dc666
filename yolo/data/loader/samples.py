"""Samples as the network takes them, one by one and in batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from yolo.data.augment.geometry import Tile
from yolo.data.augment.pipeline import AugmentPipeline, Tiles
from yolo.data.image.letterbox import Letterbox, pad_to_center, rectangle_around
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.sampler import SampleKey
from yolo.recipe.schema.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Sample:
    """An image (3, S, S) uint8, red green blue, and its targets (M, 5): class, cx, cy, w, h, normalised."""

    image: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Images (B, 3, S, S) uint8 and targets (M, 6): index in the batch, class, cx, cy, w, h, normalised."""

    images: torch.Tensor
    targets: torch.Tensor

    def pin_memory(self) -> "TrainingBatch":
        """The batch in memory that a GPU can fetch from by itself."""
        return TrainingBatch(self.images.pin_memory(), self.targets.pin_memory())


@dataclass(frozen=True, slots=True)
class EvaluationBatch:
    """Letterboxed images (B, 3, H, W) uint8, and what leads back to each original."""

    images: torch.Tensor
    letterboxes: tuple[Letterbox, ...]
    image_ids: tuple[int, ...]

    def pin_memory(self) -> "EvaluationBatch":
        """The batch in memory that a GPU can fetch from by itself."""
        return EvaluationBatch(self.images.pin_memory(), self.letterboxes, self.image_ids)


class TrainingSamples(Dataset[Sample]):
    """Augmented samples: what comes out depends on (seed, epoch, index) alone, whichever rank or worker draws it.

    With `mosaic_from: batch` it depends on the other images of the micro batch too.
    """

    def __init__(self, images: ResizedImages, recipe: Recipe) -> None:
        self.images = images
        self.seed = recipe.train.seed
        self.painter = AugmentPipeline(recipe)
        self.is_mosaic_of_batch = recipe.data.augmentation.mosaic_from == "batch"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> Sample:
        pixels = torch.empty(self.painter.size, self.painter.size, 3, dtype=torch.uint8)
        targets = self._draw_into(pixels, self.images, key.image, key)
        return Sample(pixels.permute(2, 0, 1), torch.from_numpy(targets))

    def __getitems__(self, keys: Sequence[SampleKey]) -> TrainingBatch:
        """A batch at once: each sample is drawn where the batch has its place."""
        pixels = new_batch((len(keys), self.painter.size, self.painter.size, 3))
        images: Tiles = self.images
        numbers = [key.image for key in keys]
        if self.is_mosaic_of_batch:
            images, numbers = _OfBatch(self.images, numbers), list(range(len(keys)))
        targets = [
            self._draw_into(place, images, number, key)
            for place, number, key in zip(pixels, numbers, keys, strict=True)
        ]
        return batch_of(pixels, targets)

    def _draw_into(
        self, pixels: torch.Tensor, images: Tiles, number: int, key: SampleKey
    ) -> np.ndarray:
        random = np.random.default_rng((self.seed, key.epoch, key.image))
        return self.painter.draw_into(pixels.numpy(), images, number, key.epoch, random)


class _OfBatch:
    """A batch's images (`Tiles`), each read at most once."""

    def __init__(self, images: ResizedImages, indices: Sequence[int]) -> None:
        self._tiles = [replace(tile, read=cache(tile.read)) for tile in map(images.tile, indices)]

    def __len__(self) -> int:
        return len(self._tiles)

    def tile(self, index: int) -> Tile:
        """See `Tiles`."""
        return self._tiles[index]


def batch_of(pixels: torch.Tensor, targets: Sequence[np.ndarray]) -> TrainingBatch:
    """Samples' pixels (B, S, S, 3) and targets, (M, 5) each, as one batch."""
    owners = np.repeat(np.arange(len(targets)), [len(rows) for rows in targets])
    rows = np.column_stack([owners, np.concatenate(targets)]).astype(np.float32)
    return TrainingBatch(pixels.permute(0, 3, 1, 2), torch.from_numpy(rows))


def new_batch(shape: tuple[int, ...]) -> torch.Tensor:
    """Room for a batch's bytes; in a worker, in memory that the rank sees too."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


class EvaluationSamples(Dataset[EvaluationBatch]):
    """Letterboxed images, unaltered otherwise."""

    def __init__(self, images: ResizedImages, stride: int | None) -> None:
        """`stride`: each image lies in the smallest rectangle of its multiples; None: in a square."""
        self.images = images
        self.stride = stride

    def __len__(self) -> int:
        return len(self.images)

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns that an image's sample has."""
        record, size = self.images.records[index], self.images.size
        if self.stride is None:
            return size, size
        return rectangle_around(record.height, record.width, size, self.stride)

    def __getitem__(self, index: int) -> EvaluationBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> EvaluationBatch:
        """A batch of images that all have one shape."""
        rows, columns = self.shape(indices[0])
        pixels = new_batch((len(indices), rows, columns, 3))
        letterboxes = []
        records = [self.images.records[index] for index in indices]
        for place, index, record in zip(pixels.numpy(), indices, records, strict=True):
            original = record.height, record.width
            image, placed = pad_to_center(self.images[index], rows, columns, original)
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=place)
            letterboxes.append(placed)
        ids = tuple(record.image_id for record in records)
        return EvaluationBatch(pixels.permute(0, 3, 1, 2), tuple(letterboxes), ids)


def to_network(
    images: torch.Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Images (B, 3, H, W) uint8 as numbers in 0..1 on the device, channels last, which convolutions prefer.

    In the type that they are computed in, autocast need not convert them; 0 to 255 are exact in each.
    """
    moved = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    return moved.to(dtype).div_(255.0)
