"""The baseline's evaluation: non-maximum suppression in a loop, then pycocotools."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo.data.dataset import ImageRecord
from yolo.evaluation.detections import Detections, GroundTruth


def greedy_suppression(
    predictions: np.ndarray, confidence: float, iou: float, max_detections: int
) -> np.ndarray:
    """Reduce one image's predictions (N, 5 + C), in the format of `yolo.model.nms`, to its detections (K, 6)."""
    predictions = predictions[predictions[:, 4] > confidence]
    scores = predictions[:, 5:] * predictions[:, 4:5]
    row, category = np.nonzero(scores > confidence)
    centre, half = predictions[row, :2], predictions[row, 2:4] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    score = scores[row, category]
    order = np.argsort(-score, kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < max_detections:
        best, order = order[0], order[1:]
        kept.append(best)
        overlaps = _overlaps(boxes[best], boxes[order])
        order = order[(category[order] != category[best]) | ~(overlaps > iou)]
    return np.column_stack([boxes[kept], score[kept], category[kept]])


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of (4,) with (N, 4)."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    shared = width.clip(0) * height.clip(0)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = (box[2] - box[0]) * (box[3] - box[1]) + areas - shared
    overlaps: np.ndarray = shared / np.maximum(union, np.finfo(np.float32).tiny)
    return overlaps


def coco_figures(truth: GroundTruth, detections: Sequence[Detections]) -> np.ndarray:
    """COCO's 12 figures (12,), AP and AP50 first, by COCO's own code; -1 if there is no ground truth for a figure."""
    numbers = count(1)
    annotations = [
        box | {"id": next(numbers), "area": float(area), "iscrowd": int(crowd)}
        for image in truth.images
        for box, crowd, area in zip(_coco_boxes(image), image.crowd, image.areas, strict=True)
    ]
    results = [
        box | {"score": float(score)}
        for found in detections
        for box, score in zip(_coco_boxes(found), found.scores, strict=True)
    ]
    if not results:
        return np.zeros(12)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image.image_id} for image in truth.images],
            "categories": [{"id": i, "name": name} for i, name in enumerate(truth.class_names)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures: np.ndarray = evaluation.stats
    return figures


def _coco_boxes(found: ImageRecord | Detections) -> Iterator[dict[str, object]]:
    for box, label in zip(found.boxes, found.classes, strict=True):
        left, top, right, bottom = (float(value) for value in box)
        xywh = [left, top, right - left, bottom - top]
        yield {"image_id": found.image_id, "category_id": int(label), "bbox": xywh}
