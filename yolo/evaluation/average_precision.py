"""COCO's average precision, by faster-coco-eval.

Chosen by measurement against pycocotools, COCO's own: 2,000 generated images with 98,706 detections, fastest of 3 runs on
a shared 2-core machine. `python -m tests.evaluation.compare_libraries` reproduces it; the tests hold both equal.

    classes   faster-coco-eval   pycocotools   largest difference of the 12 figures
          3              1.1 s        12.2 s   0
         20              1.5 s        12.7 s   0
         80              2.0 s        20.2 s   0
"""

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from yolo.evaluation.confusion import confusion_matrix
from yolo.evaluation.curves import BestPoint, best_f1, mean_curve
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.evaluation.metrics import ClassMetrics, Curve, Metrics

# COCO's tables: precision (IoU, recall, class, size, detections), recall (IoU, class, size, detections).
IOU_50, IOU_75 = 0, 5
ALL, SMALL, MEDIUM, LARGE = range(4)
MOST_DETECTIONS = -1
"""100 of a class in an image: COCO's limit."""


def measure(detections: tuple[Detections, ...], truth: GroundTruth) -> Metrics:
    """COCO's figures, the P-R curves and the confusion matrix.

    `detections`: one entry an image, in the order of the truth's images, as `merge` gives them.
    """
    tables = judged(detections, truth).eval
    precision = tables["precision"][..., MOST_DETECTIONS]  # (IoU, recall, class, size)
    scores = tables["scores"][IOU_50, :, :, ALL, MOST_DETECTIONS]  # (recall, class)
    per_class = tuple(
        _class_metrics(index, name, precision[:, :, index, ALL], scores[:, index], truth)
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
        ar100=_mean(tables["recall"][:, :, ALL, MOST_DETECTIONS]),
        images=len(truth.images),
        boxes=sum(found.boxes for found in per_class),
        detections=sum(len(found) for found in detections),
        per_class=per_class,
        curves=curves,
        mean_curve=mean_curve(curves),
        confusion=confusion_matrix(detections, truth),
    )


def judged(detections: tuple[Detections, ...], truth: GroundTruth) -> COCOeval_faster:
    """The library's judge after its work; it prints nothing."""
    judge = COCOeval_faster(_coco_truth(truth), _coco_detections(detections, truth), "bbox")
    judge.evaluate()
    return judge


def _coco_truth(truth: GroundTruth) -> COCO:
    annotations = [
        _annotation(image.image_id, box, category, float(area), iscrowd=int(crowd))
        for image in truth.images
        for box, category, crowd, area in zip(
            _xywh(image.boxes), image.classes, image.crowd, image.areas, strict=True
        )
    ]
    return _coco(truth, annotations)


def _coco_detections(detections: tuple[Detections, ...], truth: GroundTruth) -> COCO:
    annotations = [
        _annotation(found.image_id, box, category, box[2] * box[3], iscrowd=0, score=float(score))
        for found in detections
        for box, category, score in zip(
            _xywh(found.boxes), found.classes, found.scores, strict=True
        )
    ]
    return _coco(truth, annotations)


def _annotation(
    image_id: int, box: list[float], category: int, area: float, **more: float
) -> dict[str, object]:
    return {"image_id": image_id, "category_id": int(category), "bbox": box, "area": area, **more}


def _coco(truth: GroundTruth, annotations: list[dict[str, object]]) -> COCO:
    for number, annotation in enumerate(annotations, start=1):  # 0 would mean "not matched"
        annotation["id"] = number
    return COCO(
        {
            "images": [{"id": image.image_id} for image in truth.images],
            "categories": [{"id": i, "name": name} for i, name in enumerate(truth.class_names)],
            "annotations": annotations,
        }
    )


def _xywh(boxes: np.ndarray) -> list[list[float]]:
    """(N, 4) corners to left, top, width, height, in double precision as the library computes."""
    corners = boxes.astype(np.float64).reshape(-1, 4)
    rows: list[list[float]] = np.column_stack(
        [corners[:, :2], corners[:, 2:] - corners[:, :2]]
    ).tolist()
    return rows


def _class_metrics(
    index: int, name: str, precision: np.ndarray, scores: np.ndarray, truth: GroundTruth
) -> ClassMetrics:
    """precision (IoU, recall) and scores (recall,) at IoU 0.5, both of this class."""
    counts = [int(((image.classes == index) & ~image.crowd).sum()) for image in truth.images]
    boxes, images = sum(counts), sum(count > 0 for count in counts)
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
