"""Judging the averaged weights during a run, and keeping the best."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolo.architecture import strides
from yolo.data.dataset import ImageRecord
from yolo.data.image.decode import read_image
from yolo.data.loader.loader import evaluation_loader
from yolo.errors import WeightsError
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.evaluation.evaluator import evaluate
from yolo.evaluation.gather import LocalGather, ProcessGroup
from yolo.evaluation.metrics import Metrics
from yolo.evaluation.predict import detect
from yolo.model import YOLOv5
from yolo.model.io.weights import save_weights
from yolo.recipe.schema.recipe import Recipe
from yolo.tracking.records import SampleBox, SamplePicture
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext, broadcast_object
from yolo.training.loop.datasets import Datasets

SHOWN_CONFIDENCE = 0.25
SHOWN_IOU = 0.45
"""As `yolo detect` draws: what a user would see, not all that the metric counts."""


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What one evaluation said; the same on every rank but for the metrics."""

    ap: float | None
    ap50: float | None
    is_best: bool
    metrics: Metrics | None
    """On the first rank."""
    samples: tuple[SamplePicture, ...] = ()
    """Where it is the best so far, some images with true and detected boxes; on the first rank."""


class Validator:
    """Evaluates on the validation split, every rank its share of the images."""

    def __init__(
        self, datasets: Datasets, recipe: Recipe, ranks: DistributedContext, run: RunDirectory
    ) -> None:
        self.recipe = recipe
        self.ranks = ranks
        self.run = run
        self.val = datasets.val
        self.truth = GroundTruth.of(datasets.val)
        self.batches = evaluation_loader(
            datasets.val_images,
            recipe.train.micro_batch,
            recipe.data.workers,
            strides(recipe.model.variant)[-1] if recipe.evaluation.rectangular else None,
            ranks.rank,
            ranks.world_size,
        )

    def judge(
        self, model: YOLOv5, best_ap: float, tell: Callable[[str], None] = lambda _: None
    ) -> ValidationResult:
        """Evaluate a plain network that holds the same weights on every rank; collective.

        The best weights so far are written. A split without boxes has no AP, and its last weights are its best.
        """
        peers = ProcessGroup() if self.ranks.world_size > 1 else LocalGather()
        metrics = evaluate(
            model, self.batches, self.truth, self.recipe.evaluation, self.ranks.device, peers
        )
        ap, ap50 = broadcast_object(self.ranks, metrics and (metrics.ap, metrics.ap50))
        is_best = ap is None or ap > best_ap
        if not (is_best and self.ranks.is_main):
            return ValidationResult(ap, ap50, is_best, metrics)
        self.save(model, self.run.best_weights, tell)
        return ValidationResult(ap, ap50, is_best, metrics, self._samples(model))

    def save(self, model: YOLOv5, path: Path, tell: Callable[[str], None]) -> None:
        """Write weights with what is needed to use them anywhere; a disk that is full is told, and the run goes on."""
        description = {
            "class_names": json.dumps(self.val.class_names),
            "image_size": str(self.recipe.model.image_size),
        }
        try:
            save_weights(path, model, description)
        except WeightsError as error:
            tell(f"warning: {error}; training goes on")

    def _samples(self, model: YOLOv5) -> tuple[SamplePicture, ...]:
        """The same few validation images each time, with what is there and what is detected."""
        records = self.val.records[: self.recipe.tracking.wandb.images]
        return tuple(self._sample(model, record) for record in records)

    def _sample(self, model: YOLOv5, record: ImageRecord) -> SamplePicture:
        image = read_image(record.path, record.width, record.height)  # in the frame of its boxes
        found = detect(
            model,
            image,
            self.recipe.model.image_size,
            SHOWN_CONFIDENCE,
            SHOWN_IOU,
            self.recipe.evaluation.max_detections,
            self.ranks.device,
        )
        return _sample(record, image, found)


def _sample(record: ImageRecord, image: np.ndarray, found: Detections) -> SamplePicture:
    boxes = zip(record.boxes.tolist(), record.classes.tolist(), strict=True)
    rows = zip(found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True)
    return SamplePicture(
        record.path.name,
        np.ascontiguousarray(image[..., ::-1]),
        tuple(_box(corners, category) for corners, category in boxes),
        tuple(_box(corners, category, score) for corners, category, score in rows),
    )


def _box(corners: Sequence[float], category: int, score: float | None = None) -> SampleBox:
    left, top, right, bottom = corners
    return SampleBox(left, top, right, bottom, category, score)
