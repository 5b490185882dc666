"""What an evaluation finds, in COCO's terms. A figure is None where the truth has nothing to measure it by."""

from dataclasses import dataclass

import numpy as np

RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads precision off."""


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class. All figures but the counts are None where the truth has none of its boxes."""

    name: str
    ap: float | None
    ap50: float | None
    precision: float | None
    """At the confidence with the best F1, boxes matched at IoU 0.5."""
    recall: float | None
    """At the same confidence, to a hundredth."""
    confidence: float | None
    """That confidence; None also where nothing was rightly detected."""
    images: int
    """Images with such a box, crowds not counted."""
    boxes: int
    """Boxes, crowds not counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision at each of `RECALLS`, boxes matched at IoU 0.5."""

    name: str
    precision: np.ndarray
    """(101,) float64: at each recall, the best precision there or at a higher recall, as COCO has it."""


@dataclass(frozen=True, slots=True, eq=False)
class ConfusionMatrix:
    """What was taken for what."""

    labels: tuple[str, ...]
    """The class names, then `background`."""
    counts: np.ndarray
    """(C + 1, C + 1) int64: row = what it is, column = what it was detected as. The last column counts boxes that were
    missed, the last row detections of nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """COCO's figures of one evaluation."""

    ap: float | None
    """Mean over the classes and over IoU 0.50, 0.55 ... 0.95."""
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    """Of objects below 32 x 32 pixels in area, which COCO's files state for the outline; elsewhere it is the box's."""
    ap_medium: float | None
    ap_large: float | None
    """Of objects from 96 x 96 pixels."""
    ar100: float | None
    """The highest recall with 100 detections of a class in an image, mean over classes and IoU."""
    images: int
    boxes: int
    """Boxes in the truth, crowds not counted."""
    detections: int
    per_class: tuple[ClassMetrics, ...]
    curves: tuple[Curve, ...]
    """One a class that the truth has."""
    mean_curve: Curve | None
    """The mean over those classes."""
    confusion: ConfusionMatrix
