"""From a network's predictions to COCO's figures, ours and the baseline's in turns on generated images."""

import time
from collections.abc import Callable

import numpy as np
import torch

from yolo.bench.baseline.evaluation import coco_figures, greedy_suppression
from yolo.bench.speed.generated import generate
from yolo.bench.speed.results import SpeedRatio
from yolo.errors import BenchError
from yolo.evaluation.coco_ap import measure
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.model.nms import non_maximum_suppression
from yolo.recipe.schema.outputs import EvaluationSection

CLASSES = 20
BATCH = 32
MOST = 300
ROWS = 400
"""Predictions of an image that are not near nothing: some hundred more than stay."""
SAME_AP = 1e-6


def compare_evaluation(images: int, rounds: int) -> SpeedRatio:
    """Suppression, matching and precision of generated images; raises BenchError where the AP differs."""
    seconds: tuple[list[float], list[float]] = ([], [])
    note = ""
    for number in range(rounds):
        truth, found = generate(images, CLASSES, max_detections=ROWS, seed=number)
        predictions = [_predictions(each) for each in found]
        ours = _timed(lambda: _ours(predictions, truth), seconds[0])  # noqa: B023
        plain = _timed(lambda: _baseline(predictions, truth), seconds[1])  # noqa: B023
        if abs(ours[0] - plain[0]) > SAME_AP:
            raise BenchError(f"AP {ours[0]:.8f}, and the baseline's is {plain[0]:.8f}")
        note = f"{ours[1]} detections stay, {ours[1] / images:.0f} an image; AP {ours[0]:.6f} on both sides"
    name = f"evaluation of {images} images: suppression, matching, AP"
    return SpeedRatio(name, "s", False, tuple(seconds[0]), tuple(seconds[1]), note)


def _timed(work: Callable[[], tuple[float, int]], seconds: list[float]) -> tuple[float, int]:
    begun = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - begun)
    return result


def _predictions(found: Detections) -> np.ndarray:
    """What a network would have said to come to these detections: (ROWS, 5 + CLASSES) float32."""
    rows = np.zeros((ROWS, 5 + CLASSES), dtype=np.float32)
    count = len(found)
    corners = found.boxes
    rows[:count, :2] = (corners[:, :2] + corners[:, 2:]) / 2
    rows[:count, 2:4] = corners[:, 2:] - corners[:, :2]
    rows[:count, 4] = 1.0
    rows[np.arange(count), 5 + found.classes] = found.scores
    return rows


def _ours(predictions: list[np.ndarray], truth: GroundTruth) -> tuple[float, int]:
    settings = EvaluationSection()
    found = []
    for first in range(0, len(predictions), BATCH):
        batch = torch.from_numpy(np.stack(predictions[first : first + BATCH]))
        kept = non_maximum_suppression(batch, settings.confidence, settings.iou, MOST)
        found += [_detections(rows.numpy(), truth, first + n) for n, rows in enumerate(kept)]
    metrics = measure([each.ordered() for each in found], truth)
    assert metrics.ap is not None
    return metrics.ap, metrics.detections


def _baseline(predictions: list[np.ndarray], truth: GroundTruth) -> tuple[float, int]:
    settings = EvaluationSection()
    found = [
        _detections(
            greedy_suppression(rows, settings.confidence, settings.iou, MOST), truth, number
        )
        for number, rows in enumerate(predictions)
    ]
    return float(coco_figures(truth, found)[0]), sum(map(len, found))


def _detections(rows: np.ndarray, truth: GroundTruth, number: int) -> Detections:
    image_id = truth.images[number].image_id
    return Detections(image_id, rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
