"""An evaluation's results, in COCO's terms. A figure is None if the truth has nothing to measure it by."""

from dataclasses import asdict, dataclass

import numpy as np

RECALLS = np.linspace(0, 1, 101)
"""The recalls at which COCO reads the precision."""


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class. All figures but the counts are None if the truth has no box of it."""

    name: str
    ap: float | None
    ap50: float | None
    precision: float | None
    """At the confidence with the best F1, boxes matched at IoU 0.5."""
    recall: float | None
    """At the same confidence, to a hundredth."""
    confidence: float | None
    """That confidence; None also if no detection is right."""
    images: int
    """Images with such a box, crowds not counted."""
    boxes: int
    """Boxes, crowds not counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision at each of `RECALLS`, boxes matched at IoU 0.5."""

    name: str
    precision: np.ndarray
    """(101,) float64: the best precision at each recall or a higher one, as COCO defines it."""


@dataclass(frozen=True, slots=True, eq=False)
class ConfusionMatrix:
    """How often each class was detected as each class."""

    labels: tuple[str, ...]
    """The class names, then `background`."""
    counts: np.ndarray
    """(C + 1, C + 1) int64: row = true class, column = predicted class. The last column counts missed boxes, the last row
    detections of background."""


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """COCO's figures of one evaluation."""

    ap: float | None
    """Mean over the classes and over IoU 0.50, 0.55 ... 0.95."""
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    """Objects below 32 x 32 pixels in area: the outline's area if the file is COCO's and states it, else the box's."""
    ap_medium: float | None
    ap_large: float | None
    """Objects from 96 x 96 pixels."""
    ar100: float | None
    """The highest recall with 100 detections of a class per image, mean over classes and IoU."""
    images: int
    boxes: int
    """Boxes in the truth, crowds not counted."""
    detections: int
    per_class: tuple[ClassMetrics, ...]
    curves: tuple[Curve, ...]
    """One for each class with boxes in the truth."""
    mean_curve: Curve | None
    """The mean over those classes."""
    confusion: ConfusionMatrix


def metrics_to_json(metrics: Metrics) -> dict[str, object]:
    """All figures by name, for `yolo eval --json`; null if not measurable."""
    figures = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
    counts = ("images", "boxes", "detections")
    return {
        **{name: getattr(metrics, name) for name in (*figures, *counts)},
        "per_class": [asdict(found) for found in metrics.per_class],
        "pr_curve": {
            "iou": 0.5,
            "recall": RECALLS.round(2).tolist(),
            "precision": {curve.name: curve.precision.tolist() for curve in metrics.curves},
            "mean_precision": metrics.mean_curve.precision.tolist() if metrics.mean_curve else None,
        },
        "confusion_matrix": {
            "labels": list(metrics.confusion.labels),
            "rows": "true",
            "columns": "predicted",
            "counts": metrics.confusion.counts.tolist(),
        },
    }
