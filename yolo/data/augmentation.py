"""How a training image is altered: geometry in one warp, colour by tables, flips.

Ranges and order follow the public YOLOv5's published settings.
"""

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np

from yolo.data.letterbox import GREY
from yolo.recipe.sections.data import AUGMENTATION_PRESETS, AugmentationSection

MIN_SIDE_PIXELS = 2.0
MIN_AREA_SHARE = 0.1
MAX_ASPECT = 100.0


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The augmentation section with its `auto` values settled; units as there."""

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
    def from_section(cls, section: AugmentationSection) -> "Augmentation":
        """Each value, or the preset's where it is `auto`."""
        preset = AUGMENTATION_PRESETS[section.preset]
        given = {field.name: getattr(section, field.name) for field in fields(cls)}
        return cls(
            **{name: preset[name] if value == "auto" else value for name, value in given.items()}
        )


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image (H, W, 3) uint8 with its boxes (M, 4) xyxy in pixels and classes (M,)."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def warp(
    labelled: Labelled, size: int, settings: Augmentation, random: np.random.Generator
) -> Labelled:
    """Perspective, rotation, magnification, shear and shift in one, seen through a window of `size` at the middle.

    Boxes become the upright boxes around their moved corners; those left too small, too thin, or of which less than
    a tenth is still visible are dropped.
    """
    matrix, magnification = _random_matrix(labelled.image.shape, size, settings, random)
    grey = (GREY, GREY, GREY)
    if settings.perspective:
        image = cv2.warpPerspective(labelled.image, matrix, (size, size), borderValue=grey)
    else:
        image = cv2.warpAffine(labelled.image, matrix[:2], (size, size), borderValue=grey)
    moved = _around_corners(labelled.boxes, matrix)
    clipped = np.clip(moved, 0, size)
    kept = _is_still_visible(labelled.boxes * magnification, clipped)
    return Labelled(image, clipped[kept].astype(np.float32), labelled.classes[kept])


def _random_matrix(
    shape: tuple[int, ...], size: int, settings: Augmentation, random: np.random.Generator
) -> tuple[np.ndarray, float]:
    height, width = shape[:2]
    centre = np.eye(3)
    centre[0, 2], centre[1, 2] = -width / 2, -height / 2
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
    shift[0, 2], shift[1, 2] = share * size
    return shift @ shear @ rotation @ perspective @ centre, magnification


def _around_corners(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Upright boxes around the moved corners of boxes (M, 4)."""
    corners = np.ones((len(boxes), 4, 3))
    corners[..., :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix.T
    points = moved[..., :2] / moved[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).reshape(-1, 4)


def _is_still_visible(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which boxes (M, 4) are still worth learning; `before` is scaled to the same magnification."""
    old, new = before[:, 2:] - before[:, :2], after[:, 2:] - after[:, :2]
    is_wide = (new > MIN_SIDE_PIXELS).all(axis=1)
    safe = np.maximum(new, 1e-9)
    is_visible = new.prod(axis=1) > MIN_AREA_SHARE * np.maximum(old.prod(axis=1), 1e-9)
    is_plump = np.maximum(safe[:, 0] / safe[:, 1], safe[:, 1] / safe[:, 0]) < MAX_ASPECT
    return is_wide & is_visible & is_plump


def recolour(image: np.ndarray, settings: Augmentation, random: np.random.Generator) -> np.ndarray:
    """Hue turned, saturation and brightness multiplied by random factors, by one table each."""
    reach = np.array([settings.hsv_h, settings.hsv_s, settings.hsv_v])
    if not reach.any():
        return image
    gains = 1 + random.uniform(-1, 1, 3) * reach
    levels = np.arange(256, dtype=np.float64)
    hue = ((levels * gains[0]) % 180).astype(np.uint8)
    saturation = np.clip(levels * gains[1], 0, 255).astype(np.uint8)
    value = np.clip(levels * gains[2], 0, 255).astype(np.uint8)
    channels = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    tables = (hue, saturation, value)
    changed = cv2.merge([cv2.LUT(c, table) for c, table in zip(channels, tables, strict=True)])
    return cv2.cvtColor(changed, cv2.COLOR_HSV2BGR)


def flip(labelled: Labelled, settings: Augmentation, random: np.random.Generator) -> Labelled:
    """Upside down and left to right, each by its probability."""
    image, boxes = labelled.image, labelled.boxes
    height, width = image.shape[:2]
    if random.random() < settings.flipud:
        image = image[::-1]
        boxes = np.stack(
            [boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], axis=1
        )
    if random.random() < settings.fliplr:
        image = image[:, ::-1]
        boxes = np.stack(
            [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1
        )
    return Labelled(image, boxes, labelled.classes)


def blend(one: Labelled, other: Labelled, random: np.random.Generator) -> Labelled:
    """Mixup: two images laid over each other in about equal shares (Beta(32, 32)), with the boxes of both."""
    share = random.beta(32, 32)
    image = cv2.addWeighted(one.image, share, other.image, 1 - share, 0)
    boxes = np.concatenate([one.boxes, other.boxes])
    return Labelled(image, boxes, np.concatenate([one.classes, other.classes]))


def mosaic(tiles: list[Labelled], size: int, random: np.random.Generator) -> Labelled:
    """Four images around a random point of a canvas twice as large as the network's input."""
    canvas = np.full((2 * size, 2 * size, 3), GREY, dtype=np.uint8)
    middle_x, middle_y = (math.floor(m) for m in random.uniform(0.5 * size, 1.5 * size, 2))
    boxes, classes = [], []
    for index, tile in enumerate(tiles):
        height, width = tile.image.shape[:2]
        left = middle_x - width if index % 2 == 0 else middle_x
        top = middle_y - height if index < 2 else middle_y
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, 2 * size), min(top + height, 2 * size)
        canvas[y1:y2, x1:x2] = tile.image[y1 - top : y2 - top, x1 - left : x2 - left]
        shifted = tile.boxes + np.array([left, top, left, top], dtype=np.float32)
        boxes.append(np.clip(shifted, [x1, y1, x1, y1], [x2, y2, x2, y2]))
        classes.append(tile.classes)
    placed, kinds = np.concatenate(boxes), np.concatenate(classes)
    has_area = (placed[:, 2:] - placed[:, :2] > 0).all(axis=1)
    return Labelled(canvas, placed[has_area].astype(np.float32), kinds[has_area])
