"""Samples as the network's input, one by one and in batches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from yolo.data.augment.pipeline import AugmentPipeline
from yolo.data.image.letterbox import Letterbox, pad_to_center, rectangle_around
from yolo.data.image.resized import ResizedImages, Tile
from yolo.data.loader.sampler import SampleKey
from yolo.recipe.schema.recipe import Recipe


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Images (B, 3, S, S) uint8 and targets (M, 6): index in the batch, class, cx, cy, w, h, normalised."""

    images: torch.Tensor
    targets: torch.Tensor

    def pin_memory(self) -> "TrainingBatch":
        """The batch in pinned memory, for asynchronous copies to the GPU."""
        return TrainingBatch(self.images.pin_memory(), self.targets.pin_memory())


@dataclass(frozen=True, slots=True)
class EvaluationBatch:
    """Letterboxed images (B, 3, H, W) uint8, and how to map boxes back to each original."""

    images: torch.Tensor
    letterboxes: tuple[Letterbox, ...]
    image_ids: tuple[int, ...]

    def pin_memory(self) -> "EvaluationBatch":
        return replace(self, images=self.images.pin_memory())


class TrainingSamples(Dataset[TrainingBatch]):
    """Augmented samples; each depends only on (seed, epoch, index), whichever rank or worker draws it.

    With `mosaic_from: batch` it also depends on the other images of the micro batch.
    """

    def __init__(self, images: ResizedImages, recipe: Recipe) -> None:
        self.images = images
        self.seed = recipe.train.seed
        self.pipeline = AugmentPipeline(recipe)
        self.is_mosaic_of_batch = recipe.data.augmentation.mosaic_from == "batch"

    def __getitems__(self, keys: Sequence[SampleKey]) -> TrainingBatch:
        """A full batch; each sample is drawn directly into it."""
        pixels = allocate_batch(len(keys), self.pipeline.size, self.pipeline.size)
        tile: Callable[[int], Tile] = self.images.tile
        count, indices = len(self.images), [key.image for key in keys]
        if self.is_mosaic_of_batch:  # each image is read at most once
            tiles = map(self.images.tile, indices)
            by_place = {n: replace(tile, read=cache(tile.read)) for n, tile in enumerate(tiles)}
            tile, count, indices = by_place.__getitem__, len(by_place), list(by_place)
        targets = []
        for into, index, key in zip(pixels.numpy(), indices, keys, strict=True):
            random = np.random.default_rng((self.seed, key.epoch, key.image))
            targets.append(self.pipeline.draw_into(into, tile, count, index, key.epoch, random))
        return collate(pixels, targets)


def collate(pixels: torch.Tensor, targets: Sequence[np.ndarray]) -> TrainingBatch:
    """Collate samples' pixels (B, S, S, 3) and targets, (M, 5) each."""
    owners = np.repeat(np.arange(len(targets)), [len(rows) for rows in targets])
    rows = np.column_stack([owners, np.concatenate(targets)]).astype(np.float32)
    return TrainingBatch(pixels.permute(0, 3, 1, 2), torch.from_numpy(rows))


def allocate_batch(count: int, rows: int, columns: int) -> torch.Tensor:
    """Allocate pixels (B, H, W, 3) uint8; in a worker, in memory shared with the rank."""
    shape = (count, rows, columns, 3)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


class EvaluationSamples(Dataset[EvaluationBatch]):
    """Letterboxed images without augmentation."""

    def __init__(self, images: ResizedImages, stride: int | None) -> None:
        """`stride`: pad each image to the smallest rectangle of its multiples; None: to a square."""
        self.images = images
        self.stride = stride

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of an image's sample."""
        record, size = self.images.records[index], self.images.size
        if self.stride is None:
            return size, size
        return rectangle_around(record.height, record.width, size, self.stride)

    def __getitems__(self, indices: Sequence[int]) -> EvaluationBatch:
        """A batch of images that all have one shape."""
        rows, columns = self.shape(indices[0])
        pixels = allocate_batch(len(indices), rows, columns)
        letterboxes = []
        records = [self.images.records[index] for index in indices]
        for into, index, record in zip(pixels.numpy(), indices, records, strict=True):
            original = record.height, record.width
            image, letterbox = pad_to_center(self.images[index], rows, columns, original)
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=into)
            letterboxes.append(letterbox)
        ids = tuple(record.image_id for record in records)
        return EvaluationBatch(pixels.permute(0, 3, 1, 2), tuple(letterboxes), ids)


def to_network(
    images: torch.Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Images (B, 3, H, W) uint8 scaled to 0..1 on the device, channels last, which convolutions prefer.

    Pass the compute dtype, so that autocast need not convert; 0 to 255 are exact in each dtype.
    """
    moved = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    return moved.to(dtype).div_(255.0)
