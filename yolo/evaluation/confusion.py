"""The confusion matrix: each detection is paired with at most one box, whatever their classes say."""

from collections.abc import Sequence

import numpy as np

from yolo.evaluation.detections import Detections, GroundTruth, ImageTruth
from yolo.evaluation.metrics import ConfusionMatrix

CONFIDENCE = 0.25
IOU = 0.45
"""Both as the public YOLOv5 has them in its confusion matrix."""


def confusion_matrix(
    detections: Sequence[Detections],
    truth: GroundTruth,
    confidence: float = CONFIDENCE,
    iou: float = IOU,
) -> ConfusionMatrix:
    """Count what was taken for what, among detections of at least `confidence`.

    Pairs that overlap by more than `iou` are joined from the largest overlap down. A box of a crowd counts as nothing,
    and neither does an unpaired detection of which more than `iou` lies in one. `detections`: one entry an image, in the
    order of the truth's images.
    """
    background = len(truth.class_names)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    for found, image in zip(detections, truth.images, strict=True):
        found = found.above(confidence)
        has_crowd = bool(image.crowd.any())
        is_single = ~image.crowd
        boxes, classes = image.boxes[is_single], image.classes[is_single]
        paired_boxes, paired_detections = _pairs(box_overlaps(boxes, found.boxes), iou)
        np.add.at(counts, (classes[paired_boxes], found.classes[paired_detections]), 1)
        missed = np.delete(classes, paired_boxes)
        np.add.at(counts[:, background], missed, 1)
        is_invented = np.ones(len(found), dtype=bool)
        if has_crowd:
            is_invented &= ~_lies_in_crowd(found, image, iou)
        is_invented[paired_detections] = False
        np.add.at(counts[background], found.classes[is_invented], 1)
    return ConfusionMatrix((*truth.class_names, "background"), counts)


def box_overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of (N, 4) with (M, 4) boxes xyxy: (N, M) in 0..1."""
    shared = _intersections(first, second)
    union = _areas(first)[:, None] + _areas(second) - shared
    overlaps: np.ndarray = shared / np.maximum(union, np.finfo(np.float32).tiny)
    return overlaps


def _pairs(overlaps: np.ndarray, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of (N, M) paired off one to one, the largest overlap first."""
    rows, columns = np.nonzero(overlaps > iou)
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    free_rows, free_columns = (np.ones(size, dtype=bool) for size in overlaps.shape)
    pairs = []
    for row, column in zip(rows[order], columns[order], strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    paired = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return paired[:, 0], paired[:, 1]


def _lies_in_crowd(found: Detections, image: ImageTruth, share: float) -> np.ndarray:
    """Which detections (K,) lie in a box of a crowd by more than a share of their own area; the class does not matter."""
    inside = _intersections(found.boxes, image.boxes[image.crowd])
    own = np.maximum(_areas(found.boxes), np.finfo(np.float32).tiny)
    lies_inside: np.ndarray = (inside / own[:, None] > share).any(axis=1)
    return lies_inside


def _intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    upper_left = np.maximum(first[:, None, :2], second[None, :, :2])
    lower_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(lower_right - upper_left, 0)
    shared: np.ndarray = sides[..., 0] * sides[..., 1]
    return shared


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas: np.ndarray = sides[:, 0] * sides[:, 1]
    return areas
