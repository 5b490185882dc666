"""Detect in image files, for `yolo detect`."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from yolo.data.image import IMAGE_SUFFIXES
from yolo.data.image.decode import UnusableImage, read_image
from yolo.data.image.letterbox import letterbox
from yolo.data.loader.samples import to_network
from yolo.errors import DataError
from yolo.evaluation.detections import Detections
from yolo.evaluation.evaluator import evaluation_mode, to_detections
from yolo.model.nms import non_maximum_suppression

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class DetectedImage:
    """An image file and what was detected in it."""

    path: Path
    image: np.ndarray
    """(H, W, 3) uint8, BGR."""
    detections: Detections
    """`image_id` is the file's index among those given."""


def image_files(places: Iterable[Path]) -> list[Path]:
    """The image files among files and folders, subfolders included; each folder's sorted.

    DataError if a place does not exist, or if no image is found.
    """
    places = list(places)
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files += sorted(
                path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
            )
        elif place.exists():
            files.append(place)
        else:
            raise DataError(f"{place}: no such file or folder; expected images or folders of them")
    if not files:
        raise DataError(
            f"{', '.join(map(str, places)) or 'nothing'}: no images there; "
            f"expected files with one of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return files


def detect_images(
    model: nn.Module,
    files: Sequence[Path],
    image_size: int,
    confidence: float,
    iou: float,
    max_detections: int,
    device: torch.device,
) -> Iterator[DetectedImage]:
    """Detect in image files in turn. Unreadable images are skipped with a warning; DataError if none can be read."""
    unreadable = 0
    for index, path in enumerate(files):
        try:
            image = read_image(path)
        except UnusableImage as error:
            unreadable += 1
            log.warning("%s", error)
            continue
        found = detect(model, image, image_size, confidence, iou, max_detections, device, index)
        yield DetectedImage(path, image, found)
    if unreadable == len(files):
        raise DataError(f"none of {len(files)} images can be read")
    if unreadable:
        log.warning("%d of %d images could not be read", unreadable, len(files))


def detect(
    model: nn.Module,
    image: np.ndarray,
    image_size: int,
    confidence: float,
    iou: float,
    max_detections: int,
    device: torch.device,
    image_id: int = 0,
) -> Detections:
    """Detect in one image (H, W, 3) uint8, BGR; boxes in its own pixels, one class each."""
    square, placed = letterbox(image, image_size)
    pixels = torch.from_numpy(square[..., ::-1].transpose(2, 0, 1).copy())
    with evaluation_mode(model):
        predictions = model(to_network(pixels[None], device))
    (rows,) = non_maximum_suppression(
        predictions, confidence, iou, max_detections, multi_label=False
    )
    return to_detections(rows, placed, image_id)


def detections_to_json(entry: DetectedImage, class_names: tuple[str, ...]) -> dict[str, object]:
    """`image`, `width`, `height` and `detections` (`class`, `score`, `box` xyxy in pixels)."""
    found = entry.detections
    rows = zip(found.boxes, found.scores, found.classes.tolist(), strict=True)
    return {
        "image": str(entry.path),
        "width": entry.image.shape[1],
        "height": entry.image.shape[0],
        "detections": [
            {
                "class": class_names[category],
                "score": round(float(score), 4),
                "box": [round(float(value), 2) for value in box],
            }
            for box, score, category in rows
        ],
    }
