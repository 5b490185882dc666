"""Drawing an augmented sample from some images, wherever those come from."""

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


class Tiles(Protocol):
    """Images that a sample may be drawn from, by number."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def tile(self, index: int) -> Tile:
        """An image and its boxes, at the network's size."""
        ...


class AugmentPipeline:
    """Draws samples as a recipe's augmentation has them, one at a time.

    It works in memory that it keeps: fresh pages for each sample would cost more than what is done in them.
    """

    def __init__(self, recipe: Recipe) -> None:
        section = recipe.data.augmentation
        self.size = recipe.model.image_size
        self.augmentation = Augmentation.from_section(section)
        self.last_mosaic_epoch = recipe.train.epochs - section.mosaic_off_epochs
        self._square, self._other = np.empty((2, self.size, self.size, 3), dtype=np.uint8)

    def draw_into(
        self, pixels: np.ndarray, images: Tiles, index: int, epoch: int, random: np.random.Generator
    ) -> np.ndarray:
        """Draw a sample into pixels (S, S, 3), red green blue; returns its targets (M, 5).

        It shows image `index` and, in a mosaic, others of the same images.
        """
        settings = self.augmentation
        is_mosaic = epoch < self.last_mosaic_epoch and random.random() < settings.mosaic
        palette = HSVJitter.random(settings, random)
        labelled = self._draw(pixels, images, index, is_mosaic, palette, random)
        if is_mosaic and random.random() < settings.mixup:
            other = int(random.integers(len(images)))
            above = self._draw(self._other, images, other, is_mosaic, palette, random)
            labelled = blend(labelled, above, random)
        boxes = flip(pixels, labelled.boxes, settings, random)
        centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        targets = np.column_stack([labelled.classes, centre / self.size, side / self.size])
        return targets.astype(np.float32)

    def _draw(
        self,
        pixels: np.ndarray,
        images: Tiles,
        index: int,
        is_mosaic: bool,
        palette: HSVJitter,
        random: np.random.Generator,
    ) -> Labelled:
        """Before flips, in the palette's colours."""
        if is_mosaic:
            indices = [index, *(int(other) for other in random.integers(len(images), size=3))]
            random.shuffle(indices)
            tiles = mosaic([images.tile(i) for i in indices], self.size, random)
        else:
            tiles = [centred(images.tile(index), self.size)]
        plane = 2 * self.size if is_mosaic else self.size
        view = random_view(plane, self.size, self.augmentation, random)
        laid = compose(tiles, view, self._square)
        palette.recolour(laid.image, pixels)
        return replace(laid, image=pixels)
