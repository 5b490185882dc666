"""Draw augmented training samples from any source of images."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from yolo.data.augment.geometry import Labelled, Tile, compose
from yolo.data.augment.transforms import (
    Augmentation,
    HSVJitter,
    blend,
    centred,
    flip,
    mosaic,
    random_view,
)
from yolo.recipe.schema.recipe import Recipe


class TileSource(Protocol):
    """Images at the network's size, by index."""

    def __len__(self) -> int: ...

    def tile(self, index: int) -> Tile: ...


class AugmentPipeline:
    """Draws samples with a recipe's augmentation, one at a time.

    It reuses its buffers: new memory pages for each sample would cost more than the work done in them.
    """

    def __init__(self, recipe: Recipe) -> None:
        section = recipe.data.augmentation
        self.size = recipe.model.image_size
        self.augmentation = Augmentation.from_section(section)
        self.last_mosaic_epoch = recipe.train.epochs - section.mosaic_off_epochs
        self._square, self._mixup = np.empty((2, self.size, self.size, 3), dtype=np.uint8)

    def draw_into(
        self,
        pixels: np.ndarray,
        images: TileSource,
        index: int,
        epoch: int,
        random: np.random.Generator,
    ) -> np.ndarray:
        """Draw image `index` into pixels (S, S, 3) RGB; returns its targets (M, 5).

        A mosaic adds other images of the same source.
        """
        settings = self.augmentation
        is_mosaic = epoch < self.last_mosaic_epoch and random.random() < settings.mosaic
        jitter = HSVJitter.random(settings, random)

        def draw(index: int, into: np.ndarray) -> Labelled:
            tiles = [index]
            if is_mosaic:
                tiles += random.integers(len(images), size=3).tolist()
                random.shuffle(tiles)
                placed = mosaic([images.tile(i) for i in tiles], self.size, random)
            else:
                placed = [centred(images.tile(index), self.size)]
            plane = 2 * self.size if is_mosaic else self.size
            view = random_view(plane, self.size, settings, random)
            labelled = compose(placed, view, self._square)
            jitter.apply(labelled.image, into)
            return replace(labelled, image=into)

        labelled = draw(index, pixels)
        if is_mosaic and random.random() < settings.mixup:
            other = int(random.integers(len(images)))
            labelled = blend(labelled, draw(other, self._mixup), random)
        boxes = flip(pixels, labelled.boxes, settings, random)
        centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        targets = np.column_stack([labelled.classes, centre / self.size, side / self.size])
        return targets.astype(np.float32)
