"""`yolo eval` and `yolo detect`: weights in a file, images in a folder, no run around them."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch

from yolo.data.dataset import DetectionDataset
from yolo.data.image.resized import ResizedImages
from yolo.data.loader.loader import evaluation_loader
from yolo.data.open import load_annotated
from yolo.data.progress_protocol import ProgressFactory, no_progress
from yolo.data.verification import verify_images
from yolo.errors import DataError
from yolo.evaluation.detections import GroundTruth
from yolo.evaluation.drawing import draw_detections
from yolo.evaluation.evaluator import evaluate
from yolo.evaluation.metrics import Metrics
from yolo.evaluation.metrics_json import metrics_to_json
from yolo.evaluation.predict import DetectedImage, detect_images, detections_to_json, image_files
from yolo.model import YOLOv5
from yolo.model.io.weights import load_detector
from yolo.recipe.resolve.hardware import count_cores
from yolo.recipe.schema.evaluation import EvaluationSection

MAX_DETECTIONS = 300
MAX_WORKERS = 8

log = logging.getLogger(__name__)


def evaluate_weights(
    weights: Path,
    data: Path,
    json_path: Path | None,
    batch: int,
    counting: ProgressFactory = no_progress,
) -> Iterator[str]:
    """Measure weights on a data set, with a recipe's default settings; yields the lines to print.

    `data` is a COCO annotation file or a data.yaml. Images that cannot be read are left out and counted. Raises
    WeightsError and DataError, the latter also where the classes differ.
    """
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    detector = load_detector(weights)
    model, class_names, image_size = detector.model, detector.class_names, detector.image_size
    dataset = load_annotated(data)
    if dataset.class_names != class_names:
        raise DataError(
            f"{data}: its classes {list(dataset.class_names)} are not those of {weights}: {list(class_names)}"
        )
    with counting("verifying images", len(dataset.records)) as advance:
        images = ResizedImages(dataset.records, image_size, None)
        dataset = dataset.without(verify_images(images, threads=count_cores(), advance=advance))
    yield from (f"warning: {line}" for line in dataset.report.lines())
    metrics = _evaluate(model, dataset, image_size, batch, counting)
    if json_path is not None:
        json_path.write_text(json.dumps(metrics_to_json(metrics), indent=1) + "\n", "utf-8")
    yield from metric_lines(metrics)


def detect_and_draw(
    weights: Path,
    places: list[Path],
    out: Path,
    confidence: float,
    iou: float,
    counting: ProgressFactory = no_progress,
) -> Iterator[str]:
    """Detect in images and folders of them; yields a line an image.

    Writes each image with its boxes, and detections.json, into `out`. Raises WeightsError and DataError.
    """
    detector = load_detector(weights)
    model, class_names, image_size = detector.model, detector.class_names, detector.image_size
    device = _device()
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    taken: set[Path] = set()
    files = image_files(places)
    with counting("detecting in images", len(files)) as advance:
        for entry in detect_images(
            model.to(device),
            files,
            image_size,
            confidence,
            iou,
            MAX_DETECTIONS,
            device,
            log.warning,
        ):
            picture = _free_name(out, entry, taken)
            drawn = draw_detections(entry.image, entry.detections, class_names)
            if not cv2.imwrite(str(picture), drawn):
                raise DataError(f"{picture}: cannot be written (is the disk full?)")
            rows.append(detections_to_json(entry, class_names))
            advance(1)
            yield f"{entry.path}: {_counted(entry, class_names)} -> {picture}"
    listing = out / "detections.json"
    listing.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    yield f"{len(rows)} images, all detections in {listing}"


def metric_lines(metrics: Metrics) -> Iterator[str]:
    """The figures as lines of text, the classes as a table."""
    sizes = (
        (metrics.ap_small, "small"),
        (metrics.ap_medium, "medium"),
        (metrics.ap_large, "large"),
    )
    yield f"{metrics.images} images, {metrics.boxes} boxes, {metrics.detections} detections"
    if metrics.ap is None:
        yield "AP none: the data set has no boxes to measure it by"
        return
    yield f"AP {_figure(metrics.ap)}   AP50 {_figure(metrics.ap50)}   AP75 {_figure(metrics.ap75)}"
    yield "AP by size: " + ", ".join(f"{name} {_figure(value)}" for value, name in sizes)
    yield f"AR100 {_figure(metrics.ar100)}"
    width = max(5, *(len(found.name) for found in metrics.per_class))
    yield f"{'class':<{width}}  images   boxes     AP   AP50  precision  recall"
    for found in metrics.per_class:
        yield (
            f"{found.name:<{width}}  {found.images:6}  {found.boxes:6}  {_figure(found.ap):>5}  {_figure(found.ap50):>5}"
            f"  {_figure(found.precision):>9}  {_figure(found.recall):>6}"
        )


def _evaluate(
    model: YOLOv5, dataset: DetectionDataset, image_size: int, batch: int, counting: ProgressFactory
) -> Metrics:
    device = _device()
    settings = EvaluationSection()
    images = ResizedImages(dataset.records, image_size, None)
    stride = model.stride[-1] if settings.rectangular else None
    workers = min(MAX_WORKERS, count_cores() - 1)
    with counting("evaluating images", len(dataset.records)) as advance:
        metrics = evaluate(
            model.to(device),
            evaluation_loader(images, batch, workers, stride),
            GroundTruth.of(dataset),
            settings,
            device,
            advance=advance,
        )
    assert metrics is not None  # there is one rank, and it is the first
    return metrics


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _free_name(out: Path, entry: DetectedImage, taken: set[Path]) -> Path:
    """The image's own name; a number is added where folders hold images of one name."""
    picture, number = out / f"{entry.path.stem}.png", 1
    while picture in taken:
        number += 1
        picture = out / f"{entry.path.stem}-{number}.png"
    taken.add(picture)
    return picture


def _counted(entry: DetectedImage, class_names: tuple[str, ...]) -> str:
    counts = Counter(entry.detections.classes.tolist())
    return ", ".join(f"{n} {class_names[c]}" for c, n in sorted(counts.items())) or "nothing"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
