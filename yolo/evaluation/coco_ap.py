"""COCO's average precision, by faster-coco-eval.

Chosen by measurement against pycocotools, COCO's own: 2,000 generated images with 98,706 detections, fastest of 3 runs
on a shared 2-core machine. `python -m tests.evaluation.compare_libraries` reproduces it; the tests hold both equal.

    classes   faster-coco-eval   pycocotools   largest difference of the 12 figures
          3              1.1 s        12.2 s   0
         20              1.5 s        12.7 s   0
         80              2.0 s        20.2 s   0
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from yolo.data.dataset import ImageRecord
from yolo.evaluation.confusion import confusion_matrix
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.evaluation.metrics import RECALLS, ClassMetrics, ConfusionMatrix, Curve, Metrics

# COCO's tables: precision (IoU, recall, class, size, detections), recall (IoU, class, size, detections).
IOU_50, IOU_75 = 0, 5
ALL, SMALL, MEDIUM, LARGE = range(4)
MOST_DETECTIONS = -1
"""100 of a class per image: COCO's limit."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassTables:
    """COCO's tables of some classes, with up to 100 detections of each per image; -1 if not measurable."""

    classes: np.ndarray
    """(C,) their indices."""
    precision: np.ndarray
    """(10, 101, C, 4): IoU, recall, class, size."""
    recall: np.ndarray
    """(10, C, 4): IoU, class, size."""
    scores: np.ndarray
    """(101, C): the confidence at each recall, boxes matched at IoU 0.5."""

    @classmethod
    def concatenate(cls, parts: Sequence["ClassTables"]) -> "ClassTables":
        """The tables of all classes, in the order of their indices."""
        classes = np.concatenate([part.classes for part in parts])
        order = classes.argsort()
        return cls(
            classes[order],
            np.concatenate([part.precision for part in parts], axis=2)[:, :, order],
            np.concatenate([part.recall for part in parts], axis=1)[:, order],
            np.concatenate([part.scores for part in parts], axis=1)[:, order],
        )


def measure(detections: Sequence[Detections], truth: GroundTruth) -> Metrics:
    """COCO's figures, the P-R curves and the confusion matrix.

    `detections`: one entry per image, in the order of the truth's images, as from `merge`.
    """
    tables = evaluate_classes(detections, truth, range(len(truth.class_names)))
    return summarise(tables, confusion_matrix(detections, truth), sum(map(len, detections)), truth)


def evaluate_classes(
    detections: Sequence[Detections], truth: GroundTruth, classes: Sequence[int]
) -> ClassTables:
    """COCO's tables of some classes; detections and boxes of other classes are ignored."""
    tables = run_coco_eval(detections, truth, classes).eval
    return ClassTables(
        np.array(classes, dtype=np.int64),
        tables["precision"][..., MOST_DETECTIONS],
        tables["recall"][..., MOST_DETECTIONS],
        tables["scores"][IOU_50, :, :, ALL, MOST_DETECTIONS],
    )


def summarise(
    tables: ClassTables, confusion: ConfusionMatrix, detections: int, truth: GroundTruth
) -> Metrics:
    """The figures from the tables of all classes; `detections` is their number."""
    precision = tables.precision
    boxes, images = _counts(truth)
    per_class, curves = [], []
    for index, name in enumerate(truth.class_names):
        own = precision[:, :, index, ALL]  # (IoU, recall)
        best: tuple[float | None, float | None, float | None] = (None, None, None)
        if boxes[index]:
            best = _best_f1(own[IOU_50], tables.scores[:, index])
            curves.append(Curve(name, own[IOU_50]))
        counts = (int(images[index]), int(boxes[index]))
        per_class.append(ClassMetrics(name, _mean(own), _mean(own[IOU_50]), *best, *counts))
    mean_precision = np.mean([curve.precision for curve in curves], axis=0) if curves else None
    return Metrics(
        ap=_mean(precision[..., ALL]),
        ap50=_mean(precision[IOU_50, ..., ALL]),
        ap75=_mean(precision[IOU_75, ..., ALL]),
        ap_small=_mean(precision[..., SMALL]),
        ap_medium=_mean(precision[..., MEDIUM]),
        ap_large=_mean(precision[..., LARGE]),
        ar100=_mean(tables.recall[..., ALL]),
        images=len(truth.images),
        boxes=int(boxes.sum()),
        detections=detections,
        per_class=tuple(per_class),
        curves=tuple(curves),
        mean_curve=None if mean_precision is None else Curve("all classes", mean_precision),
        confusion=confusion,
    )


def run_coco_eval(
    detections: Sequence[Detections], truth: GroundTruth, classes: Sequence[int]
) -> COCOeval_faster:
    """The library's evaluator of some classes after it ran; prints nothing."""
    # The library needs one dictionary per box; the garbage collector would scan all of them repeatedly for nothing.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        areas = [image.areas.astype(float) for image in truth.images]
        crowd = [image.crowd.astype(int) for image in truth.images]
        scores = [found.scores for found in detections]
        evaluator = COCOeval_faster(
            _coco(truth, classes, truth.images, area=areas, iscrowd=crowd),
            _coco(truth, classes, detections, score=scores),
            "bbox",
        )
        evaluator.evaluate()
    finally:
        if was_enabled:
            gc.enable()
    return evaluator


def _coco(
    truth: GroundTruth,
    classes: Sequence[int],
    images: Sequence[ImageRecord] | Sequence[Detections],
    **columns: Sequence[np.ndarray],
) -> COCO:
    """The boxes of some classes as the library takes them; `columns` are further values of them, an array per image."""
    all_classes = _concatenate([image.classes for image in images]).astype(np.int64)
    chosen = np.isin(all_classes, classes)
    lengths = [len(image.classes) for image in images]
    image_ids = np.repeat(np.array([image.image_id for image in images], np.int64), lengths)
    # The library computes in double precision, with left, top, width and height.
    boxes = _concatenate([image.boxes.reshape(-1, 4) for image in images]).astype(np.float64)
    boxes = boxes.reshape(-1, 4)[chosen]
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(
        image_ids[chosen].tolist(), all_classes[chosen].tolist(), boxes.tolist(), strict=True
    )
    annotations: list[dict[str, object]] = [
        # Ids start at 1: 0 would mean "not matched".
        {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, (i, c, b) in enumerate(rows, start=1)
    ]
    for key, arrays in columns.items():
        values = _concatenate(arrays)[chosen].tolist()
        for annotation, value in zip(annotations, values, strict=True):
            annotation[key] = value
    return COCO(
        {
            "images": [{"id": image.image_id} for image in truth.images],
            "categories": [{"id": i, "name": truth.class_names[i]} for i in classes],
            "annotations": annotations,
        }
    )


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _counts(truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """Number of boxes, and of images with any, of each class, (C,); crowds are not counted."""
    classes = len(truth.class_names)
    boxes, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for image in truth.images:
        own = np.bincount(image.classes[~image.crowd], minlength=classes)
        boxes += own
        images += own > 0
    return boxes, images


def _best_f1(precision: np.ndarray, scores: np.ndarray) -> tuple[float, float, float | None]:
    """Precision, recall and confidence at the best F1 of a P-R curve (101,); `scores` (101,) are its confidences.

    The curve shows at each recall the best precision there or at a higher recall. F1 grows with recall, so its maximum
    is at a precision that was really reached, not one from the smoothing.
    """
    f1 = 2 * precision * RECALLS / np.maximum(precision + RECALLS, np.finfo(np.float64).tiny)
    best = int(f1.argmax())
    if f1[best] == 0:
        return 0.0, 0.0, None
    return float(precision[best]), float(RECALLS[best]), float(scores[best])


def _mean(table: np.ndarray) -> float | None:
    """The mean of what could be measured; the library marks the rest with -1."""
    measured = table[table > -1]
    return float(measured.mean()) if measured.size else None
