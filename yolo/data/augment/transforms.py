"""How a training image is altered: where its tiles come to lie, its colour, flips.

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
    """The values of the augmentation section; units as there."""

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
        """Take the values that a single image needs."""
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})


def random_view(plane: int, size: int, settings: Augmentation, random: np.random.Generator) -> View:
    """Perspective, rotation, magnification, shear and shift in one, seen through a window of `size` at the middle."""
    centre = np.eye(3)
    centre[:2, 2] = -plane / 2
    perspective = np.eye(3)
    perspective[2, :2] = random.uniform(-settings.perspective, settings.perspective, 2)
    angle = random.uniform(-settings.degrees, settings.degrees)
    magnification = random.uniform(1 - settings.scale, 1 + settings.scale)
    rotation = np.eye(3)
    rotation[:2] = cv2.getRotationMatrix2D((0, 0), angle, magnification)
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(
        np.radians(random.uniform(-settings.shear, settings.shear, 2))
    )
    shift = np.eye(3)
    share = random.uniform(0.5 - settings.translate, 0.5 + settings.translate, 2)
    shift[:2, 2] = share * size
    matrix = shift @ shear @ rotation @ perspective @ centre
    return View(plane, matrix, magnification, size)


@dataclass(frozen=True, slots=True)
class HSVJitter:
    """What hue, saturation and value are multiplied by."""

    hue: float = 1.0
    saturation: float = 1.0
    value: float = 1.0

    @classmethod
    def random(cls, settings: Augmentation, random: np.random.Generator) -> "HSVJitter":
        """Factors around 1, each as far from it as its setting lets it be."""
        reach = np.array([settings.hsv_h, settings.hsv_s, settings.hsv_v])
        if not reach.any():
            return cls()
        return cls(*(1 + random.uniform(-1, 1, 3) * reach).tolist())

    def recolour(self, image: np.ndarray, into: np.ndarray) -> None:
        """Put an image (H, W, 3), blue green red, into another, red green blue as the network takes it.

        The first is used up.
        """
        if self == HSVJitter():
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=into)
            return
        cv2.cvtColor(image, cv2.COLOR_BGR2HSV, dst=image)
        # To 255 at most, which a hue never comes to. One of 180 or more is taken for where it lies on the circle.
        cv2.transform(image, np.diag([self.hue, self.saturation, self.value]), dst=image)
        cv2.cvtColor(image, cv2.COLOR_HSV2RGB, dst=into)


def flip(
    pixels: np.ndarray, boxes: np.ndarray, settings: Augmentation, random: np.random.Generator
) -> np.ndarray:
    """Upside down and left to right, each by its probability; pixels (H, W, 3) in place, boxes (M, 4) returned."""
    height, width = pixels.shape[:2]
    is_upside_down = random.random() < settings.flipud
    is_mirrored = random.random() < settings.fliplr
    if is_upside_down:
        boxes = np.stack(
            [boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], axis=1
        )
    if is_mirrored:
        boxes = np.stack(
            [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1
        )
    if is_upside_down or is_mirrored:
        way = 1 if not is_upside_down else -1 if is_mirrored else 0
        cv2.flip(pixels, way, dst=pixels)
    return boxes


def blend(one: Labelled, other: Labelled, random: np.random.Generator) -> Labelled:
    """Mixup: another image laid over the first, in place, in about equal shares (Beta(32, 32)); the boxes of both."""
    share = random.beta(32, 32)
    cv2.addWeighted(one.image, share, other.image, 1 - share, 0, dst=one.image)
    boxes = np.concatenate([one.boxes, other.boxes])
    return Labelled(one.image, boxes, np.concatenate([one.classes, other.classes]))


def mosaic(tiles: Sequence[Tile], size: int, random: np.random.Generator) -> list[Tile]:
    """Four images around a random point of a plane twice as large as the network's input."""
    middle_x, middle_y = (math.floor(m) for m in random.uniform(0.5 * size, 1.5 * size, 2))
    return [
        replace(
            tile,
            left=middle_x - tile.columns if index % 2 == 0 else middle_x,
            top=middle_y - tile.rows if index < 2 else middle_y,
        )
        for index, tile in enumerate(tiles)
    ]


def centred(tile: Tile, size: int) -> Tile:
    """One image in the middle of a plane of `size`."""
    return replace(tile, left=(size - tile.columns) // 2, top=(size - tile.rows) // 2)
