"""Generated inputs: ground truth with detections, and large JPEGs."""

from pathlib import Path

import cv2
import numpy as np

from yolo.data.dataset import ImageRecord
from yolo.evaluation.detections import Detections, GroundTruth

SIDE = 640
QUALITY = 90
GRAIN = 6.0
"""Standard deviation of the noise, in levels of 256: about that of a photograph at ISO 400."""


def generate(
    images: int, classes: int, max_detections: int = 100, crowd_share: float = 0.02, seed: int = 0
) -> tuple[GroundTruth, tuple[Detections, ...]]:
    """Boxes of 8 to 300 pixels; 60 of 100 detections are shifted boxes, 1 in 5 of those of another class."""
    random = np.random.default_rng(seed)
    pairs = [
        _image(number, classes, max_detections, crowd_share, random) for number in range(images)
    ]
    names = tuple(f"class {number}" for number in range(classes))
    truth = GroundTruth(names, tuple(image for image, _ in pairs))
    return truth, tuple(found.ordered() for _, found in pairs)


def _boxes(count: int, random: np.random.Generator) -> np.ndarray:
    sides = np.exp(random.uniform(np.log(8), np.log(300), (count, 2)))
    corner = random.uniform(0, 1, (count, 2)) * (SIDE - sides)
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def _image(
    number: int, classes: int, max_detections: int, crowd_share: float, random: np.random.Generator
) -> tuple[ImageRecord, Detections]:
    boxes = _boxes(int(random.integers(0, 20)), random)
    labels = random.integers(0, classes, len(boxes))
    is_crowd = random.random(len(boxes)) < crowd_share
    # The share of its box that an outline fills: some objects are small although their boxes are not.
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * random.uniform(0.3, 1.0, len(boxes))
    place = number * 7 + 3, Path(f"{number}.jpg"), SIDE, SIDE
    image = ImageRecord(*place, boxes, labels, is_crowd, areas.astype(np.float32))

    count = int(random.integers(0, max_detections + 1))
    found, found_labels = _boxes(count, random), random.integers(0, classes, count)
    scores = random.beta(2, 4, count)
    if len(boxes):
        source = random.integers(0, len(boxes), count)
        is_near = random.random(count) < 0.6
        sides = np.tile(boxes[source, 2:] - boxes[source, :2], (1, 2))
        near = boxes[source] + random.normal(0, 0.06, (count, 4)) * sides
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        found = np.where(is_near[:, None], near, found).astype(np.float32)
        is_right = is_near & (random.random(count) < 0.8)
        found_labels = np.where(is_right, labels[source], found_labels)
        scores = np.where(is_near, random.beta(3, 2, count), scores)
    detections = Detections(image.image_id, found, scores.astype(np.float32), found_labels)
    return image, detections


def draw_photographs(folder: Path, count: int, width: int, height: int) -> list[ImageRecord]:
    """Write `count` JPEGs with soft fields of colour, a camera's grain and 8 boxes; the same at each call."""
    random = np.random.default_rng(0)
    records = []
    for number in range(count):
        coarse = random.integers(0, 256, (height // 160, width // 160, 3)).astype(np.uint8)
        enlarged = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image = enlarged.astype(np.float32)
        image += random.normal(0, GRAIN, image.shape)
        corners = np.sort(random.uniform(0, 1, (8, 2, 2)), axis=1).reshape(8, 4)
        boxes = (corners * [width, height, width, height]).astype(np.float32)
        for left, top, right, bottom in boxes.astype(int):
            colour = random.integers(0, 256, 3).tolist()
            cv2.rectangle(image, (left, top), (right, bottom), colour, thickness=6)
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), image.clip(0, 255), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        labels = random.integers(0, 3, 8), np.zeros(8, bool)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        records.append(ImageRecord(number, path, width, height, boxes, *labels, areas))
    return records
