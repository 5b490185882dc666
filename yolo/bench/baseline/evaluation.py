"""The baseline's evaluation: a loop over the boxes that stay, then pycocotools."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo.evaluation.detections import Detections, GroundTruth


def greedy_suppression(
    predictions: np.ndarray, confidence: float, iou: float, max_detections: int
) -> np.ndarray:
    """One image's predictions (N, 5 + C), as `yolo.model.nms` takes them, to its detections (K, 6)."""
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
    """COCO's 12 figures (12,), AP and AP50 first, by COCO's own code; -1 where there is nothing to measure by."""
    annotations: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for image in truth.images:
        for box, kind, crowd, area in zip(
            image.boxes, image.classes, image.crowd, image.areas, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.image_id,
                    "category_id": int(kind),
                    "bbox": _xywh(box),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    for found in detections:
        for box, kind, score in zip(found.boxes, found.classes, found.scores, strict=True):
            results.append(
                {
                    "image_id": found.image_id,
                    "category_id": int(kind),
                    "bbox": _xywh(box),
                    "score": float(score),
                }
            )
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
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    figures: np.ndarray = judge.stats
    return figures


def _xywh(box: np.ndarray) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]
