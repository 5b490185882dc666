"""`yolo eval` and `yolo detect`: weights in a file, images in a folder, no run."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch

from yolo.data.image.resized import ResizedImages, verify_images
from yolo.data.loader.loader import evaluation_loader
from yolo.data.open import load_annotated
from yolo.data.progress_protocol import ProgressFactory, no_progress
from yolo.errors import DataError
from yolo.evaluation.detections import GroundTruth
from yolo.evaluation.drawing import draw_detections
from yolo.evaluation.evaluator import evaluate
from yolo.evaluation.metrics import Metrics, metrics_to_json
from yolo.evaluation.predict import DetectedImage, detect_images, detections_to_json, image_files
from yolo.model.io.weights import load_detector
from yolo.recipe.resolve.hardware import count_cores
from yolo.recipe.schema.train import EvaluationSection

MAX_DETECTIONS = 300
MAX_WORKERS = 8


def evaluate_weights(
    weights: Path,
    data: Path,
    json_path: Path | None,
    batch: int,
    counting: ProgressFactory = no_progress,
) -> Iterator[str]:
    """Evaluate weights on a data set, with a recipe's default settings; yields the lines to print.

    `data` is a COCO annotation file or a data.yaml. Unreadable images are skipped and counted. WeightsError, or
    DataError, also if the classes differ.
    """
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    detector, device = load_detector(weights), _device()
    dataset = load_annotated(data)
    if dataset.class_names != detector.class_names:
        raise DataError(
            f"{data}: its classes {list(dataset.class_names)} are not those of {weights}: {list(detector.class_names)}"
        )
    with counting("verifying images", len(dataset.records)) as advance:
        images = ResizedImages(dataset.records, detector.image_size, None)
        dataset = dataset.without(verify_images(images, threads=count_cores(), advance=advance))
    yield from (f"warning: {line}" for line in dataset.report.lines())
    settings = EvaluationSection()
    images = ResizedImages(dataset.records, detector.image_size, None)
    stride = detector.model.stride[-1] if settings.rectangular else None
    workers = min(MAX_WORKERS, count_cores() - 1)
    batches, truth = evaluation_loader(images, batch, workers, stride), GroundTruth.of(dataset)
    model = detector.model.to(device)
    with counting("evaluating images", len(dataset.records)) as advance:
        metrics = evaluate(model, batches, truth, settings, device, advance=advance)
    assert metrics is not None  # this is the first rank
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
    """Detect in images and folders of images; yields one line per image.

    Writes each image with its boxes, and detections.json, into `out`. WeightsError, or DataError.
    """
    detector, device = load_detector(weights), _device()
    class_names = detector.class_names
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    used: set[Path] = set()
    files = image_files(places)
    with counting("detecting in images", len(files)) as advance:
        model, limits = detector.model.to(device), (confidence, iou, MAX_DETECTIONS)
        for entry in detect_images(model, files, detector.image_size, *limits, device):
            drawn_path = _free_name(out, entry, used)
            drawn = draw_detections(entry.image, entry.detections, class_names)
            if not cv2.imwrite(str(drawn_path), drawn):
                raise DataError(f"{drawn_path}: cannot be written; is the disk full?")
            rows.append(detections_to_json(entry, class_names))
            advance(1)
            yield f"{entry.path}: {_counted(entry, class_names)} -> {drawn_path}"
    listing = out / "detections.json"
    listing.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    yield f"{len(rows)} images, all detections in {listing}"


def metric_lines(metrics: Metrics) -> Iterator[str]:
    """The figures as lines of text, the classes as a table."""
    sizes = {"small": metrics.ap_small, "medium": metrics.ap_medium, "large": metrics.ap_large}
    yield f"{metrics.images} images, {metrics.boxes} boxes, {metrics.detections} detections"
    if metrics.ap is None:
        yield "AP none: the data set has no boxes to measure it by"
        return
    yield f"AP {_figure(metrics.ap)}   AP50 {_figure(metrics.ap50)}   AP75 {_figure(metrics.ap75)}"
    yield "AP by size: " + ", ".join(f"{name} {_figure(value)}" for name, value in sizes.items())
    yield f"AR100 {_figure(metrics.ar100)}"
    width = max(5, *(len(found.name) for found in metrics.per_class))
    yield f"{'class':<{width}}  images   boxes     AP   AP50  precision  recall"
    for found in metrics.per_class:
        yield (
            f"{found.name:<{width}}  {found.images:6}  {found.boxes:6}  {_figure(found.ap):>5}  {_figure(found.ap50):>5}"
            f"  {_figure(found.precision):>9}  {_figure(found.recall):>6}"
        )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _free_name(out: Path, entry: DetectedImage, used: set[Path]) -> Path:
    """The image's own name, with a number if folders hold images of the same name."""
    path, number = out / f"{entry.path.stem}.png", 1
    while path in used:
        number += 1
        path = out / f"{entry.path.stem}-{number}.png"
    used.add(path)
    return path


def _counted(entry: DetectedImage, class_names: tuple[str, ...]) -> str:
    counts = Counter(entry.detections.classes.tolist())
    return ", ".join(f"{n} {class_names[c]}" for c, n in sorted(counts.items())) or "nothing"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
