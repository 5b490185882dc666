"""What can be read off P-R curves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from yolo.evaluation.metrics import RECALLS, Curve


class BestPoint(NamedTuple):
    """Where a class is best told from the rest."""

    precision: float | None
    recall: float | None
    confidence: float | None


def best_f1(precision: np.ndarray, scores: np.ndarray) -> BestPoint:
    """The point of the best F1 on a P-R curve (101,); `scores` (101,) are the confidences along it.

    The curve shows at each recall the best precision there or further on. F1 grows with recall, so that its maximum lies
    where the precision was really reached: the smoothing flatters nothing.
    """
    f1 = 2 * precision * RECALLS / np.maximum(precision + RECALLS, np.finfo(np.float64).tiny)
    best = int(f1.argmax())
    if f1[best] == 0:
        return BestPoint(0.0, 0.0, None)
    return BestPoint(float(precision[best]), float(RECALLS[best]), float(scores[best]))


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """The mean precision at each recall; None of no curves."""
    if not curves:
        return None
    return Curve("all classes", np.mean([curve.precision for curve in curves], axis=0))
