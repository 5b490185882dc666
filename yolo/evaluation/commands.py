"""`yolo eval` and `yolo detect`: weights in a file, images in a folder, no run."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from yolo.data.image.resized import EvaluationImages, verify_images
from yolo.data.loader.loader import evaluation_loader
from yolo.data.open import load_annotated
from yolo.data.progress_protocol import ProgressFactory, no_progress
from yolo.errors import DataError
from yolo.evaluation.detection_folder import DetectionFolder
from yolo.evaluation.detections import GroundTruth
from yolo.evaluation.drawing import draw_detections
from yolo.evaluation.evaluator import evaluate
from yolo.evaluation.metrics import Metrics, metrics_to_json
from yolo.evaluation.predict import (
    DetectedImage,
    Predictor,
    detect_images,
    detections_to_json,
    image_files,
)
from yolo.model.io.weights import atomic_write, load_detector
from yolo.recipe.resolve.hardware import count_cores
from yolo.recipe.schema.train import EvaluationSection

MAX_DETECTIONS = 300
SHOWN_IOU = 0.45
"""Of non-maximum suppression, if not every detection counts."""
MAX_WORKERS = 8


def evaluate_weights(
    weights: Path,
    data: Path,
    json_path: Path | None,
    batch: int,
    counting: ProgressFactory = no_progress,
    *,
    split: str | None = None,
    images: Path | None = None,
    confidence: float | None = None,
    iou: float | None = None,
) -> Iterator[str]:
    """Evaluate weights on a data set; yields the lines to print.

    `data`, `split` and `images` as for `load_annotated`. By default every detection counts that COCO's metric counts, with
    a recipe's default settings. With `confidence`, only what `detect_and_draw` shows at it: one class per box, overlaps
    removed at `iou` 0.45. Unreadable images are skipped and counted. WeightsError, or DataError, also if the classes
    differ.
    """
    if json_path is not None:
        if json_path.exists() and any(
            map(json_path.samefile, filter(Path.exists, (weights, data)))
        ):
            raise DataError(f"{json_path}: is an input; name another file to write")
        json_path.parent.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    detector, device = load_detector(weights), _device()
    dataset = load_annotated(data, split, images)
    if dataset.class_names != detector.class_names:
        raise DataError(
            f"{data}: its classes {list(dataset.class_names)} are not those of {weights}: {list(detector.class_names)}"
        )
    with counting("verifying images", len(dataset.records)) as advance:
        resized = EvaluationImages(dataset.records, detector.image_size, None)
        dataset = dataset.without(verify_images(resized, threads=count_cores(), advance=advance))
    yield from (f"warning: {line}" for line in dataset.report.lines())
    settings, is_shown = EvaluationSection(), confidence is not None
    if confidence is not None:
        settings = EvaluationSection(confidence=confidence, iou=SHOWN_IOU)
    if iou is not None:
        settings = settings.model_copy(update={"iou": iou})
    resized = EvaluationImages(dataset.records, detector.image_size, None)
    stride = detector.model.stride[-1] if settings.rectangular else None
    workers = min(MAX_WORKERS, count_cores() - 1)
    batches, truth = evaluation_loader(resized, batch, workers, stride), GroundTruth.of(dataset)
    model = detector.model.to(device)
    with counting("evaluating images", len(dataset.records)) as advance:
        metrics = evaluate(
            model, batches, truth, settings, device, advance=advance, multi_label=not is_shown
        )
    assert metrics is not None  # this is the first rank
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(metrics_to_json(metrics), indent=1) + "\n", "utf-8")
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

    Writes each image with its boxes, and detections.json, into `out`, over no other file. WeightsError, or DataError.
    """
    detector, device = load_detector(weights), _device()
    class_names = detector.class_names
    files = image_files(places)
    folder = DetectionFolder(out, files)
    model = detector.model.to(device)
    predictor = Predictor(model, detector.image_size, device, confidence, iou, MAX_DETECTIONS)
    rows = []
    with counting("detecting in images", len(files)) as advance:
        for entry in detect_images(predictor, files):
            drawn = draw_detections(entry.image, entry.detections, class_names)
            try:
                path = folder.write(entry.path, drawn)
            except OSError as error:
                raise DataError(f"{out}: cannot be written: {error.strerror}") from error
            rows.append(detections_to_json(entry, class_names))
            advance(1)
            yield f"{entry.path}: {_counted(entry, class_names)} -> {path}"
    folder.write_listing(rows)
    yield f"{len(rows)} images, all detections in {folder.listing}"


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


def _counted(entry: DetectedImage, class_names: tuple[str, ...]) -> str:
    counts = Counter(entry.detections.classes.tolist())
    return ", ".join(f"{n} {class_names[c]}" for c, n in sorted(counts.items())) or "nothing"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
