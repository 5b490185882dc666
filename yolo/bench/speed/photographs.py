"""Large JPEGs to load, drawn: soft fields of colour with the grain of a camera, and boxes."""

from pathlib import Path

import cv2
import numpy as np

from yolo.data.dataset import ImageRecord

QUALITY = 90
GRAIN = 6.0
"""Standard deviation of the noise, in levels of 256: about that of a photograph at ISO 400."""


def draw_photographs(folder: Path, count: int, width: int, height: int) -> list[ImageRecord]:
    """Write `count` photographs and return them with a few boxes each; the same at each call."""
    random = np.random.default_rng(0)
    return [
        _draw(folder / f"{number}.jpg", number, width, height, random) for number in range(count)
    ]


def _draw(
    path: Path, number: int, width: int, height: int, random: np.random.Generator
) -> ImageRecord:
    coarse = random.integers(0, 256, (height // 160, width // 160, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    image += random.normal(0, GRAIN, image.shape)
    corners = np.sort(random.uniform(0, 1, (8, 2, 2)), axis=1).reshape(8, 4)
    boxes = (corners * [width, height, width, height]).astype(np.float32)
    for left, top, right, bottom in boxes.astype(int):
        colour = random.integers(0, 256, 3).tolist()
        cv2.rectangle(image, (left, top), (right, bottom), colour, thickness=6)
    cv2.imwrite(str(path), image.clip(0, 255), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    classes = random.integers(0, 3, len(boxes))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return ImageRecord(number, path, width, height, boxes, classes, np.zeros(8, bool), areas)
