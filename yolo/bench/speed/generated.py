"""Generated truth and detections, more or less right."""

import numpy as np

from yolo.evaluation.detections import Detections, GroundTruth, ImageTruth

SIDE = 640


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
    number: int, classes: int, most: int, crowd_share: float, random: np.random.Generator
) -> tuple[ImageTruth, Detections]:
    boxes = _boxes(int(random.integers(0, 20)), random)
    kinds = random.integers(0, classes, len(boxes))
    is_crowd = random.random(len(boxes)) < crowd_share
    # As an outline fills its box: so that some objects are small whose boxes are not.
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * random.uniform(0.3, 1.0, len(boxes))
    image = ImageTruth(number * 7 + 3, boxes, kinds, is_crowd, areas.astype(np.float32))

    count = int(random.integers(0, most + 1))
    found, found_kinds = _boxes(count, random), random.integers(0, classes, count)
    scores = random.beta(2, 4, count)
    if len(boxes):
        source = random.integers(0, len(boxes), count)
        is_near = random.random(count) < 0.6
        sides = np.tile(boxes[source, 2:] - boxes[source, :2], (1, 2))
        near = boxes[source] + random.normal(0, 0.06, (count, 4)) * sides
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        found = np.where(is_near[:, None], near, found).astype(np.float32)
        is_right = is_near & (random.random(count) < 0.8)
        found_kinds = np.where(is_right, kinds[source], found_kinds)
        scores = np.where(is_near, random.beta(3, 2, count), scores)
    detections = Detections(image.image_id, found, scores.astype(np.float32), found_kinds)
    return image, detections
