import numpy as np
import pytest

from yolo.bench.speed.generated import generate
from yolo.evaluation.confusion import confusion_matrix
from yolo.evaluation.detections import Detections, GroundTruth


def plain_iou(first: np.ndarray, second: np.ndarray) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def plain_matrix(detections: tuple[Detections, ...], truth: GroundTruth) -> np.ndarray:
    """Reference: of the remaining pairs, take the one with the largest overlap, until none remains. No crowds."""
    background = len(truth.class_names)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    for found, image in zip(detections, truth.images, strict=True):
        seen = [i for i in range(len(found)) if found.scores[i] >= 0.25]
        there = list(range(len(image.boxes)))
        while True:
            overlaps = [
                (plain_iou(image.boxes[t], found.boxes[s]), t, s) for t in there for s in seen
            ]
            overlap, t, s = max(overlaps, default=(0.0, -1, -1))
            if overlap <= 0.45:
                break
            counts[image.classes[t], found.classes[s]] += 1
            there.remove(t)
            seen.remove(s)
        for t in there:
            counts[image.classes[t], background] += 1
        for s in seen:
            counts[background, found.classes[s]] += 1
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_plain_references(seed: int) -> None:
    truth, detections = generate(15, 4, max_detections=40, crowd_share=0, seed=seed)
    matrix = confusion_matrix(detections, truth)
    np.testing.assert_array_equal(matrix.counts, plain_matrix(detections, truth))
    assert matrix.labels == (*truth.class_names, "background")


def test_every_box_is_counted_once_in_its_row() -> None:
    truth, detections = generate(30, 5, crowd_share=0)
    rows = confusion_matrix(detections, truth).counts.sum(axis=1)
    classes = np.concatenate([image.classes for image in truth.images])
    np.testing.assert_array_equal(rows[:-1], np.bincount(classes, minlength=5))


def test_a_box_taken_for_another_class_stands_off_the_diagonal() -> None:
    truth, _ = generate(1, 2, seed=4)
    image = truth.images[0]
    swapped = Detections(
        image.image_id, image.boxes, np.full(len(image.boxes), 0.9), 1 - image.classes
    )
    counts = confusion_matrix((swapped,), truth).counts
    assert counts[0, 1] + counts[1, 0] == (~image.crowd).sum()
    assert counts.trace() == 0
