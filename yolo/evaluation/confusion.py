"""The confusion matrix: each detection is paired with at most one box, whatever their classes."""

from collections.abc import Sequence

import numpy as np

from yolo.evaluation.detections import Detections, GroundTruth, ImageTruth
from yolo.evaluation.metrics import ConfusionMatrix

CONFIDENCE = 0.25
IOU = 0.45
"""Both as in the public YOLOv5's confusion matrix."""


def confusion_matrix(detections: Sequence[Detections], truth: GroundTruth) -> ConfusionMatrix:
    """Count the classes that boxes were detected as, among detections of at least `CONFIDENCE`.

    Boxes and detections with an IoU above `IOU` are paired, the largest first. A crowd's box is not counted, and
    neither is an unpaired detection with more than the share `IOU` of its area in one. `detections`: one entry per
    image, in the order of the truth's images.
    """
    background = len(truth.class_names)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    for found, image in zip(detections, truth.images, strict=True):
        found = found.above(CONFIDENCE)
        boxes, classes = image.boxes[~image.crowd], image.classes[~image.crowd]
        paired_boxes, paired_detections = _pairs(_pairwise_iou(boxes, found.boxes))
        np.add.at(counts, (classes[paired_boxes], found.classes[paired_detections]), 1)
        np.add.at(counts[:, background], np.delete(classes, paired_boxes), 1)
        is_false = np.ones(len(found), dtype=bool)
        if image.crowd.any():
            is_false &= ~_is_in_crowd(found, image)
        is_false[paired_detections] = False
        np.add.at(counts[background], found.classes[is_false], 1)
    return ConfusionMatrix((*truth.class_names, "background"), counts)


def _pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of (N, 4) with (M, 4) boxes xyxy: (N, M) in 0..1."""
    shared = _intersections(first, second)
    union = _areas(first)[:, None] + _areas(second) - shared
    return shared / np.maximum(union, np.finfo(np.float32).tiny)


def _pairs(overlaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of (N, M) paired one to one, the largest overlap first."""
    rows, columns = np.nonzero(overlaps > IOU)
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    free_rows, free_columns = (np.ones(size, dtype=bool) for size in overlaps.shape)
    pairs = []
    for row, column in zip(rows[order], columns[order], strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    paired = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return paired[:, 0], paired[:, 1]


def _is_in_crowd(found: Detections, image: ImageTruth) -> np.ndarray:
    """Whether more than the share `IOU` of each detection's area (K,) is in a crowd's box, of any class."""
    inside = _intersections(found.boxes, image.boxes[image.crowd])
    own = np.maximum(_areas(found.boxes), np.finfo(np.float32).tiny)
    is_inside: np.ndarray = (inside / own[:, None] > IOU).any(axis=1)
    return is_inside


def _intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    upper_left = np.maximum(first[:, None, :2], second[None, :, :2])
    lower_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(lower_right - upper_left, 0)
    return sides[..., 0] * sides[..., 1]


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]
