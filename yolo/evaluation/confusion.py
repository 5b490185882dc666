"""The confusion matrix: each detection is paired with at most one box, whatever their classes."""

from collections.abc import Sequence

import numpy as np
import torch

from yolo.data.dataset import ImageRecord
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.evaluation.metrics import ConfusionMatrix
from yolo.model.boxes import area, pairwise_intersection, pairwise_iou

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
        paired_boxes, paired_detections = _pairs(boxes, found.boxes)
        np.add.at(counts, (classes[paired_boxes], found.classes[paired_detections]), 1)
        np.add.at(counts[:, background], np.delete(classes, paired_boxes), 1)
        is_false = np.ones(len(found), dtype=bool)
        if image.crowd.any():
            is_false &= ~_is_in_crowd(found, image)
        is_false[paired_detections] = False
        np.add.at(counts[background], found.classes[is_false], 1)
    return ConfusionMatrix((*truth.class_names, "background"), counts)


def _pairs(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of boxes (N, 4) and (M, 4) paired one to one, the largest overlap first."""
    overlaps = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(others)).numpy()
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


def _is_in_crowd(found: Detections, image: ImageRecord) -> np.ndarray:
    """Whether more than the share `IOU` of each detection's area (K,) is in a crowd's box, of any class."""
    boxes, crowds = torch.from_numpy(found.boxes), torch.from_numpy(image.boxes[image.crowd])
    own = area(boxes).clamp(min=torch.finfo(torch.float32).tiny)
    return (pairwise_intersection(boxes, crowds) / own[:, None] > IOU).any(dim=1).numpy()
