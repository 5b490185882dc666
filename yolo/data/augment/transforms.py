"""Random changes of a training image: placement of its tiles, view, colour, flips, mixup.

Ranges and order follow the public YOLOv5's published settings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np

from yolo.data.augment.geometry import Labelled, Tile, View
from yolo.recipe.schema.recipe import ResolvedAugmentation


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The values of the recipe's augmentation section; same units."""

    hsv_h: float
    hsv_s: float
    hsv_v: float
    degrees: float
    translate: float
    scale: float
    shear: float
    perspective: float
    flipud: float
    fliplr: float
    mosaic: float
    mixup: float

    @classmethod
    def from_section(cls, section: ResolvedAugmentation) -> "Augmentation":
        """The values that a single image needs."""
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})


def random_view(plane: int, size: int, settings: Augmentation, random: np.random.Generator) -> View:
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
    def random(cls, settings: Augmentation, random: np.random.Generator) -> "HSVJitter":
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
    pixels: np.ndarray, boxes: np.ndarray, settings: Augmentation, random: np.random.Generator
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


def mosaic(tiles: Sequence[Tile], size: int, random: np.random.Generator) -> list[Tile]:
    """Place four images around a random point of a plane twice as large as the network's input."""
    x, y = (math.floor(middle) for middle in random.uniform(0.5 * size, 1.5 * size, 2))
    return [
        replace(
            tile,
            left=x - tile.columns if index % 2 == 0 else x,
            top=y - tile.rows if index < 2 else y,
        )
        for index, tile in enumerate(tiles)
    ]


def centred(tile: Tile, size: int) -> Tile:
    """Place one image in the center of a plane of `size`."""
    return replace(tile, left=(size - tile.columns) // 2, top=(size - tile.rows) // 2)
