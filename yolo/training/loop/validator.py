"""Validation of the averaged weights during a run; the best are kept."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolo.architecture import strides
from yolo.data.dataset import ImageRecord
from yolo.data.image.decode import read_image
from yolo.data.loader.loader import evaluation_loader
from yolo.errors import WeightsError, readable
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.evaluation.evaluator import LocalGather, ProcessGroup, evaluate
from yolo.evaluation.metrics import Metrics
from yolo.evaluation.predict import Predictor
from yolo.model import YOLOv5
from yolo.model.io.weights import atomic_write, weights_content
from yolo.recipe.schema.recipe import Recipe
from yolo.tracking.records import SampleBox, SamplePicture
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext, broadcast_object
from yolo.training.loop.datasets import Datasets

logger = logging.getLogger(__name__)

SHOWN_CONFIDENCE = 0.25
SHOWN_IOU = 0.45
"""The defaults of `yolo detect`: what a user would see, not all that the metric counts."""


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The result of one evaluation; the same on every rank, except for metrics and samples."""

    ap: float | None
    ap50: float | None
    is_best: bool
    metrics: Metrics | None
    """On the main rank."""
    samples: tuple[SamplePicture, ...] = ()
    """If it is the best so far, some images with true and detected boxes; on the main rank."""


class Validator:
    """Evaluates on the validation split; each rank takes its share of the images."""

    def __init__(
        self, datasets: Datasets, recipe: Recipe, context: DistributedContext, run: RunDirectory
    ) -> None:
        self.recipe = recipe
        self.context = context
        self.run = run
        self.val = datasets.val
        self.truth = GroundTruth.of(datasets.val)
        self._unsaved: dict[Path, bytes] = {}
        self._is_latest = False
        """Whether the link `latest` was pointed at the run."""
        self.batches = evaluation_loader(
            datasets.val_images,
            recipe.train.micro_batch,
            recipe.data.workers,
            strides(recipe.model.variant)[-1] if recipe.evaluation.rectangular else None,
            context.rank,
            context.world_size,
        )

    def validate(self, model: YOLOv5, best_ap: float) -> ValidationResult:
        """Evaluate a plain network that holds the same weights on every rank; collective.

        The best weights so far are written. A split without boxes has no AP, and its last weights are its best.
        """
        gather = ProcessGroup() if self.context.world_size > 1 else LocalGather()
        metrics = evaluate(
            model, self.batches, self.truth, self.recipe.evaluation, self.context.device, gather
        )
        ap, ap50 = broadcast_object(self.context, metrics and (metrics.ap, metrics.ap50))
        is_best = ap is None or ap > best_ap
        if not (is_best and self.context.is_main):
            return ValidationResult(ap, ap50, is_best, metrics)
        self.save(model, self.run.best_weights)
        return ValidationResult(ap, ap50, is_best, metrics, self._samples(model))

    def save(self, model: YOLOv5, path: Path) -> None:
        """Write weights with all that is needed to use them anywhere.

        Those that a full disk does not take are kept in memory and written with the next ones; training continues.
        """
        description = {
            "class_names": json.dumps(self.val.class_names),
            "image_size": str(self.recipe.model.image_size),
        }
        self._unsaved[path] = weights_content(model, description)
        if problem := self.write_unsaved():
            logger.warning("%s; training continues", problem)

    def write_unsaved(self) -> str | None:
        """Write the weights that are not on the disk yet; returns the reason if one of them cannot be written."""
        for path, content in tuple(self._unsaved.items()):
            try:
                with atomic_write(path) as temporary:
                    temporary.write_bytes(content)
            except WeightsError as error:
                return str(error)
            del self._unsaved[path]
            self._become_latest()
        return None

    def _become_latest(self) -> None:
        if self._is_latest:
            return
        self._is_latest = True
        try:
            self.run.become_latest()
        except OSError as error:
            logger.warning("%s does not name this run: %s", self.run.path.parent / "latest", error)

    def _samples(self, model: YOLOv5) -> tuple[SamplePicture, ...]:
        """The same few validation images each time, with true and detected boxes."""
        predictor = Predictor(
            model,
            self.recipe.model.image_size,
            self.context.device,
            SHOWN_CONFIDENCE,
            SHOWN_IOU,
            self.recipe.evaluation.max_detections,
        )
        records = self.val.records[: self.recipe.tracking.wandb.images]
        pictures = []
        for record in records:
            image = read_image(
                record.path, record.width, record.height
            )  # in the frame of its boxes
            pictures.append(_sample(record, image, predictor.detect(image)))
        return tuple(pictures)


def _sample(record: ImageRecord, image: np.ndarray, found: Detections) -> SamplePicture:
    boxes = zip(record.boxes.tolist(), record.classes.tolist(), strict=True)
    rows = zip(found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True)
    return SamplePicture(
        readable(record.path.name),  # a name that is not UTF-8 cannot be written as such
        np.ascontiguousarray(image[..., ::-1]),
        tuple(_box(corners, category) for corners, category in boxes),
        tuple(_box(corners, category, score) for corners, category, score in rows),
    )


def _box(corners: Sequence[float], category: int, score: float | None = None) -> SampleBox:
    left, top, right, bottom = corners
    return SampleBox(left, top, right, bottom, category, score)
