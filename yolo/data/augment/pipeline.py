"""Draw augmented training samples: placement of the tiles, view, colour, flips, mixup.

Ranges and order follow the public YOLOv5's published settings.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np

from yolo.data.augment.geometry import Labelled, View, compose
from yolo.data.image.resized import Tile
from yolo.recipe.schema.recipe import Recipe, ResolvedAugmentation


class AugmentPipeline:
    """Draws samples with a recipe's augmentation, one at a time.

    It reuses its buffers: new memory pages for each sample would cost more than the work done in them.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.settings = recipe.data.augmentation
        self.size = recipe.model.image_size
        self.last_mosaic_epoch = recipe.train.epochs - self.settings.mosaic_off_epochs
        self._square, self._mixup = np.empty((2, self.size, self.size, 3), dtype=np.uint8)

    def draw_into(
        self,
        pixels: np.ndarray,
        tile: Callable[[int], Tile],
        count: int,
        index: int,
        epoch: int,
        random: np.random.Generator,
    ) -> np.ndarray:
        """Draw the image `tile(index)` into pixels (S, S, 3) RGB; returns its targets (M, 5).

        A mosaic adds others of the `count` images that `tile` gives at the network's size.
        """
        settings = self.settings
        is_mosaic = epoch < self.last_mosaic_epoch and random.random() < settings.mosaic
        jitter = HSVJitter.random(settings, random)

        def draw(index: int, into: np.ndarray) -> Labelled:
            if is_mosaic:
                indices = [index, *random.integers(count, size=3).tolist()]
                random.shuffle(indices)
                placed = mosaic([tile(i) for i in indices], self.size, random)
            else:
                placed = [centred(tile(index), self.size)]
            plane = 2 * self.size if is_mosaic else self.size
            view = random_view(plane, self.size, settings, random)
            labelled = compose(placed, view, self._square)
            jitter.apply(labelled.image, into)
            return replace(labelled, image=into)

        labelled = draw(index, pixels)
        if is_mosaic and random.random() < settings.mixup:
            other = int(random.integers(count))
            labelled = blend(labelled, draw(other, self._mixup), random)
        boxes = flip(pixels, labelled.boxes, settings, random)
        centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        targets = np.column_stack([labelled.classes, centre / self.size, side / self.size])
        return targets.astype(np.float32)


def mosaic(tiles: Sequence[Tile], size: int, random: np.random.Generator) -> list[Tile]:
    """Place four images around a random point of a plane twice as large as the network's input."""
    x, y = (math.floor(middle) for middle in random.uniform(0.5 * size, 1.5 * size, 2))
    return [
        replace(tile, left=x - is_left * tile.columns, top=y - is_upper * tile.rows)
        for tile, (is_upper, is_left) in zip(tiles, product((1, 0), (1, 0)), strict=True)
    ]


def centred(tile: Tile, size: int) -> Tile:
    """Place one image in the center of a plane of `size`."""
    return replace(tile, left=(size - tile.columns) // 2, top=(size - tile.rows) // 2)


def random_view(
    plane: int, size: int, settings: ResolvedAugmentation, random: np.random.Generator
) -> View:
    """Random perspective, rotation, magnification, shear and shift, seen through a central window of `size`."""
    centre, perspective, rotation, shear, shift = np.stack([np.eye(3)] * 5)
    centre[:2, 2] = -plane / 2
    perspective[2, :2] = random.uniform(-settings.perspective, settings.perspective, 2)
    angle = random.uniform(-settings.degrees, settings.degrees)
    magnification = random.uniform(1 - settings.scale, 1 + settings.scale)
    rotation[:2] = cv2.getRotationMatrix2D((0, 0), angle, magnification)
    angles = random.uniform(-settings.shear, settings.shear, 2)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(angles))
    share = random.uniform(0.5 - settings.translate, 0.5 + settings.translate, 2)
    shift[:2, 2] = share * size
    return View(plane, shift @ shear @ rotation @ perspective @ centre, magnification, size)


@dataclass(frozen=True, slots=True)
class HSVJitter:
    """Factors of hue, saturation and value."""

    hue: float = 1.0
    saturation: float = 1.0
    value: float = 1.0

    @classmethod
    def random(cls, settings: ResolvedAugmentation, random: np.random.Generator) -> "HSVJitter":
        """Random factors, each at most its setting away from 1."""
        reach = np.array([settings.hsv_h, settings.hsv_s, settings.hsv_v])
        if not reach.any():
            return cls()
        return cls(*(1 + random.uniform(-1, 1, 3) * reach).tolist())

    def apply(self, image: np.ndarray, into: np.ndarray) -> None:
        """Write an image (H, W, 3) BGR into another, RGB as the network expects it; overwrites `image`."""
        if self == HSVJitter():
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=into)
            return
        cv2.cvtColor(image, cv2.COLOR_BGR2HSV, dst=image)
        # Products saturate at 255, which no hue reaches. COLOR_HSV2RGB wraps hues of 180 and more around the circle.
        cv2.transform(image, np.diag([self.hue, self.saturation, self.value]), dst=image)
        cv2.cvtColor(image, cv2.COLOR_HSV2RGB, dst=into)


def flip(
    pixels: np.ndarray,
    boxes: np.ndarray,
    settings: ResolvedAugmentation,
    random: np.random.Generator,
) -> np.ndarray:
    """Flip up-down and left-right, each with its probability; pixels (H, W, 3) in place, returns boxes (M, 4)."""
    is_flipped = random.random() < settings.flipud, random.random() < settings.fliplr
    for axis, is_chosen in zip((1, 0), is_flipped, strict=True):  # y, then x
        if is_chosen:
            boxes = boxes.copy()
            boxes[:, [axis, axis + 2]] = pixels.shape[1 - axis] - boxes[:, [axis + 2, axis]]
            cv2.flip(pixels, 1 - axis, dst=pixels)
    return boxes


def blend(one: Labelled, other: Labelled, random: np.random.Generator) -> Labelled:
    """Mixup: blend another image into the first, in place, in Beta(32, 32) shares; keep the boxes of both."""
    share = random.beta(32, 32)
    cv2.addWeighted(one.image, share, other.image, 1 - share, 0, dst=one.image)
    boxes = np.concatenate([one.boxes, other.boxes])
    return Labelled(one.image, boxes, np.concatenate([one.classes, other.classes]))
