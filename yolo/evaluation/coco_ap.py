"""COCO's average precision, by faster-coco-eval.

Chosen by measurement against pycocotools, COCO's own: 2,000 generated images with 98,706 detections, fastest of 3 runs on
a shared 2-core machine. `python -m tests.evaluation.compare_libraries` reproduces it; the tests hold both equal.

    classes   faster-coco-eval   pycocotools   largest difference of the 12 figures
          3              1.1 s        12.2 s   0
         20              1.5 s        12.7 s   0
         80              2.0 s        20.2 s   0
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from yolo.evaluation.confusion import confusion_matrix
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.evaluation.metrics import ClassMetrics, ConfusionMatrix, Curve, Metrics
from yolo.evaluation.pr_curve import BestPoint, best_f1, mean_curve

# COCO's tables: precision (IoU, recall, class, size, detections), recall (IoU, class, size, detections).
IOU_50, IOU_75 = 0, 5
ALL, SMALL, MEDIUM, LARGE = range(4)
MOST_DETECTIONS = -1
"""100 of a class in an image: COCO's limit."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassTables:
    """What COCO's evaluation leaves of some classes, with up to 100 detections of each in an image; -1 where the truth has nothing."""

    classes: np.ndarray
    """(C,) their indices."""
    precision: np.ndarray
    """(10, 101, C, 4): IoU, recall, class, size."""
    recall: np.ndarray
    """(10, C, 4): IoU, class, size."""
    scores: np.ndarray
    """(101, C): the confidence at each recall, boxes matched at IoU 0.5."""

    @classmethod
    def of_no_class(cls) -> "ClassTables":
        """Of a rank that judges none."""
        return cls(
            np.zeros(0, np.int64),
            np.zeros((10, 101, 0, 4)),
            np.zeros((10, 0, 4)),
            np.zeros((101, 0)),
        )

    @classmethod
    def joined(cls, parts: Sequence["ClassTables"]) -> "ClassTables":
        """Those of all classes, in their order."""
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

    `detections`: one entry an image, in the order of the truth's images, as `merge` gives them.
    """
    tables = judge(detections, truth, range(len(truth.class_names)))
    counts = confusion_matrix(detections, truth).counts
    return summarise(tables, counts, sum(map(len, detections)), truth)


def judge(
    detections: Sequence[Detections], truth: GroundTruth, classes: Sequence[int]
) -> ClassTables:
    """COCO's tables of some classes; detections and boxes of others are passed over."""
    tables = judged(detections, truth, classes).eval
    return ClassTables(
        np.array(classes, dtype=np.int64),
        tables["precision"][..., MOST_DETECTIONS],
        tables["recall"][..., MOST_DETECTIONS],
        tables["scores"][IOU_50, :, :, ALL, MOST_DETECTIONS],
    )


def summarise(
    tables: ClassTables, confusion: np.ndarray, detections: int, truth: GroundTruth
) -> Metrics:
    """The figures that the tables of all classes hold; `confusion` (C + 1, C + 1) and `detections` are counts."""
    precision = tables.precision
    boxes, images = _counts(truth)
    per_class = tuple(
        _class_metrics(
            name,
            precision[:, :, index, ALL],
            tables.scores[:, index],
            int(boxes[index]),
            int(images[index]),
        )
        for index, name in enumerate(truth.class_names)
    )
    curves = tuple(
        Curve(found.name, precision[IOU_50, :, index, ALL])
        for index, found in enumerate(per_class)
        if found.boxes
    )
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
        per_class=per_class,
        curves=curves,
        mean_curve=mean_curve(curves),
        confusion=ConfusionMatrix((*truth.class_names, "background"), confusion),
    )


def judged(
    detections: Sequence[Detections], truth: GroundTruth, classes: Sequence[int]
) -> COCOeval_faster:
    """The library's judge of some classes after its work; it prints nothing."""
    with _without_collecting_garbage():
        judge = COCOeval_faster(
            _coco_truth(truth, classes), _coco_detections(detections, truth, classes), "bbox"
        )
        judge.evaluate()
    return judge


@contextmanager
def _without_collecting_garbage() -> Iterator[None]:
    """The library wants a dictionary a box: the collector would go over all of them again and again, for nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _coco_truth(truth: GroundTruth, classes: Sequence[int]) -> COCO:
    images = truth.images
    rows = _rows(
        [image.image_id for image in images],
        [image.boxes for image in images],
        [image.classes for image in images],
        classes,
    )
    crowd = _joined([image.crowd for image in images]).astype(int)[rows.chosen].tolist()
    areas = _joined([image.areas for image in images]).astype(float)[rows.chosen].tolist()
    return _coco(
        truth,
        classes,
        [
            # 0 would mean "not matched"
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": a, "iscrowd": k}
            for n, (i, c, b, a, k) in enumerate(
                zip(rows.image_ids, rows.classes, rows.boxes, areas, crowd, strict=True), start=1
            )
        ],
    )


def _coco_detections(
    detections: Sequence[Detections], truth: GroundTruth, classes: Sequence[int]
) -> COCO:
    rows = _rows(
        [found.image_id for found in detections],
        [found.boxes for found in detections],
        [found.classes for found in detections],
        classes,
    )
    scores = _joined([found.scores for found in detections])[rows.chosen].tolist()
    return _coco(
        truth,
        classes,
        [
            {
                **{"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3]},
                **{"iscrowd": 0, "score": s},
            }
            for n, (i, c, b, s) in enumerate(
                zip(rows.image_ids, rows.classes, rows.boxes, scores, strict=True), start=1
            )
        ],
    )


class _Rows(NamedTuple):
    """The boxes of some classes in all images, as the library takes them."""

    chosen: np.ndarray
    """Which of all boxes, (N,) bool."""
    image_ids: list[int]
    classes: list[int]
    boxes: list[list[float]]
    """Left, top, width, height, in double precision as the library computes."""


def _rows(
    image_ids: Sequence[int],
    boxes: Sequence[np.ndarray],
    kinds: Sequence[np.ndarray],
    classes: Sequence[int],
) -> _Rows:
    """`boxes` (M, 4) corners and `kinds` (M,) class indices, of each image."""
    all_kinds = _joined(kinds).astype(np.int64)
    chosen = np.isin(all_kinds, classes)
    owners = np.repeat(np.array(image_ids, dtype=np.int64), [len(each) for each in kinds])
    corners = _joined([each.reshape(-1, 4) for each in boxes]).astype(np.float64).reshape(-1, 4)
    corners = corners[chosen]
    corners[:, 2:] -= corners[:, :2]
    return _Rows(chosen, owners[chosen].tolist(), all_kinds[chosen].tolist(), corners.tolist())


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _coco(truth: GroundTruth, classes: Sequence[int], annotations: list[dict[str, object]]) -> COCO:
    return COCO(
        {
            "images": [{"id": image.image_id} for image in truth.images],
            "categories": [{"id": i, "name": truth.class_names[i]} for i in classes],
            "annotations": annotations,
        }
    )


def _counts(truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """Of each class, (C,): its boxes, and the images that have some; crowds are not counted."""
    classes = len(truth.class_names)
    boxes, images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for image in truth.images:
        own = np.bincount(image.classes[~image.crowd], minlength=classes)
        boxes += own
        images += own > 0
    return boxes, images


def _class_metrics(
    name: str, precision: np.ndarray, scores: np.ndarray, boxes: int, images: int
) -> ClassMetrics:
    """precision (IoU, recall) and scores (recall,) at IoU 0.5, both of this class."""
    best = best_f1(precision[IOU_50], scores) if boxes else BestPoint(None, None, None)
    return ClassMetrics(
        name=name,
        ap=_mean(precision),
        ap50=_mean(precision[IOU_50]),
        precision=best.precision,
        recall=best.recall,
        confidence=best.confidence,
        images=images,
        boxes=boxes,
    )


def _mean(table: np.ndarray) -> float | None:
    """The mean of what could be measured; the library marks the rest with -1."""
    measured = table[table > -1]
    return float(measured.mean()) if measured.size else None
