"""Detecting in image files, for `yolo detect`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from yolo.evaluation.evaluator import evaluation_mode, in_original
from yolo.model.nms import non_maximum_suppression


@dataclass(frozen=True, slots=True, eq=False)
class DetectedImage:
    """An image file and what was seen in it."""

    path: Path
    image: np.ndarray
    """(H, W, 3) uint8, blue green red."""
    detections: Detections
    """`image_id` is the file's number among those given."""


def image_files(places: Iterable[Path]) -> list[Path]:
    """The image files among files and folders (folders with all below them), each folder's sorted.

    DataError for a place that does not exist, and where no image is found at all.
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
    warn: Callable[[str], None],
) -> Iterator[DetectedImage]:
    """Detect in image files, as `image_files` finds them, one after another.

    An unreadable image is told to `warn` and passed over. DataError where none can be read.
    """
    unreadable = 0
    for number, path in enumerate(files):
        try:
            image = read_image(path)
        except UnusableImage as error:
            unreadable += 1
            warn(str(error))
            continue
        found = detect(model, image, image_size, confidence, iou, max_detections, device, number)
        yield DetectedImage(path, image, found)
    if unreadable == len(files):
        raise DataError(f"none of {len(files)} images can be read")
    if unreadable:
        warn(f"{unreadable} of {len(files)} images could not be read")


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
    """Detect in one image (H, W, 3) uint8, blue green red; boxes in its own pixels, one class each."""
    square, placed = letterbox(image, image_size)
    pixels = torch.from_numpy(square[..., ::-1].transpose(2, 0, 1).copy())
    with evaluation_mode(model):
        predictions = model(to_network(pixels[None], device))
    (rows,) = non_maximum_suppression(
        predictions, confidence, iou, max_detections, multi_label=False
    )
    return in_original(rows, placed, image_id)


def detections_to_json(entry: DetectedImage, class_names: tuple[str, ...]) -> dict[str, object]:
    """`image`, `width`, `height` and `detections` (`class`, `score`, `box` xyxy in pixels)."""
    return {
        "image": str(entry.path),
        "width": entry.image.shape[1],
        "height": entry.image.shape[0],
        "detections": _rows(entry.detections, class_names),
    }


def _rows(found: Detections, class_names: tuple[str, ...]) -> list[dict[str, object]]:
    return [
        {
            "class": class_names[category],
            "score": round(float(score), 4),
            "box": [round(float(value), 2) for value in box],
        }
        for box, score, category in zip(
            found.boxes, found.scores, found.classes.tolist(), strict=True
        )
    ]
