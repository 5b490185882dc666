"""Predictions to COCO's figures: ours and the baseline's, alternating, on generated images."""

import time

import numpy as np
import torch

from yolo.bench.baseline.evaluation import coco_figures, greedy_suppression
from yolo.bench.speed.generated import generate
from yolo.bench.speed.speed_ratios import SpeedRatio
from yolo.errors import BenchError
from yolo.evaluation.coco_ap import measure
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.model.nms import non_maximum_suppression
from yolo.recipe.schema.train import EvaluationSection

CLASSES = 20
BATCH = 32
LIMITS = (EvaluationSection().confidence, EvaluationSection().iou, 300)
"""Confidence, IoU, and detections per image."""
ROWS = 400
"""Predictions per image with a score: some hundred more than suppression keeps."""
SAME_AP = 1e-6


def compare_evaluation(images: int, rounds: int) -> SpeedRatio:
    """Time suppression, matching and precision on generated images; raises BenchError if the AP differs."""
    seconds: tuple[list[float], list[float]] = ([], [])
    note = ""
    for number in range(rounds):
        truth, found = generate(images, CLASSES, max_detections=ROWS, seed=number)
        predictions = [_predictions(each) for each in found]
        results = []
        for side, evaluate in zip(seconds, (_ours, _baseline), strict=True):
            begun = time.perf_counter()
            results.append(evaluate(predictions, truth))
            side.append(time.perf_counter() - begun)
        (ap, kept), (plain_ap, _) = results
        if abs(ap - plain_ap) > SAME_AP:
            raise BenchError(f"AP {ap:.8f}, but the baseline's is {plain_ap:.8f}")
        note = f"{kept} detections kept, {kept / images:.0f} per image; AP {ap:.6f} on both sides"
    name = f"evaluation of {images} images: suppression, matching, AP"
    return SpeedRatio(name, "s", False, tuple(seconds[0]), tuple(seconds[1]), note)


def _predictions(found: Detections) -> np.ndarray:
    """A network's output for these detections: (ROWS, 5 + CLASSES) float32."""
    rows = np.zeros((ROWS, 5 + CLASSES), dtype=np.float32)
    count = len(found)
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    rows[:count, :2] = (low + high) / 2
    rows[:count, 2:4] = high - low
    rows[:count, 4] = 1.0
    rows[np.arange(count), 5 + found.classes] = found.scores
    return rows


def _ours(predictions: list[np.ndarray], truth: GroundTruth) -> tuple[float, int]:
    found = []
    for first in range(0, len(predictions), BATCH):
        batch = torch.from_numpy(np.stack(predictions[first : first + BATCH]))
        kept = non_maximum_suppression(batch, *LIMITS)
        found += [_detections(rows.numpy(), truth, first + n) for n, rows in enumerate(kept)]
    metrics = measure([each.ordered() for each in found], truth)
    assert metrics.ap is not None
    return metrics.ap, metrics.detections


def _baseline(predictions: list[np.ndarray], truth: GroundTruth) -> tuple[float, int]:
    found = [
        _detections(greedy_suppression(rows, *LIMITS), truth, number)
        for number, rows in enumerate(predictions)
    ]
    return float(coco_figures(truth, found)[0]), sum(map(len, found))


def _detections(rows: np.ndarray, truth: GroundTruth, number: int) -> Detections:
    image_id = truth.images[number].image_id
    return Detections(image_id, rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
