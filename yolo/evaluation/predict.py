"""Detect in images, prepared as an evaluation prepares them, so that both find the same objects."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from yolo.data.image import IMAGE_SUFFIXES
from yolo.data.image.decode import UnusableImage, read_image
from yolo.data.image.files import folder_content
from yolo.data.image.letterbox import pad_to_center, rectangle_around, resize_bilinear
from yolo.data.loader.samples import to_network
from yolo.errors import DataError
from yolo.evaluation.detection_folder import is_drawing
from yolo.evaluation.detections import Detections
from yolo.evaluation.evaluator import evaluation_mode, to_detections
from yolo.model.network import YOLOv5
from yolo.model.nms import non_maximum_suppression

log = logging.getLogger(__name__)
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False)
class DetectedImage:
    """An image file and what was detected in it."""

    path: Path
    image: np.ndarray
    """(H, W, 3) uint8, BGR."""
    detections: Detections
    """`image_id` is the file's index among those given."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """A network, and what of its output counts as detected."""

    model: YOLOv5
    """On `device`."""
    image_size: int
    """The long side of an image at the network's input, in pixels."""
    device: torch.device = CPU
    confidence: float = 0.25
    """Lowest score."""
    iou: float = 0.45
    """Of two boxes of one class that overlap more, only the one with the higher score stays."""
    max_detections: int = 300
    """Per image."""

    def detect(self, image: np.ndarray, image_id: int = 0) -> Detections:
        """Detect in one image (H, W, 3) uint8, BGR; boxes in its own pixels, one class each."""
        height, width = image.shape[:2]
        shape = rectangle_around(height, width, self.image_size, self.model.stride[-1])
        resized = resize_bilinear(image, self.image_size)
        padded, letterbox = pad_to_center(resized, *shape, (height, width))
        pixels = torch.from_numpy(padded[..., ::-1].transpose(2, 0, 1).copy())
        with evaluation_mode(self.model):
            predictions = self.model(to_network(pixels[None], self.device))
        limits = self.confidence, self.iou, self.max_detections
        (found,) = non_maximum_suppression(predictions, *limits, multi_label=False)
        return to_detections(found, letterbox, image_id)

    def detect_file(self, path: Path, image_id: int = 0) -> DetectedImage:
        """Detect in an image file. UnusableImage if it cannot be read."""
        image = read_image(path)
        return DetectedImage(path, image, self.detect(image, image_id))


def image_files(places: Iterable[Path]) -> list[Path]:
    """The image files among files and folders, subfolders included; each folder's sorted, without earlier drawings.

    DataError if a place does not exist, or if no image is found.
    """
    places = list(places)
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            content = folder_content(place)
            files += [path for path in content.images if not is_drawing(path)]
            if content.unread:
                log.warning(
                    "%s: %d files of formats that are not read, such as %s; convert them to JPEG or PNG",
                    *(place, len(content.unread), content.unread[0].name),
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


def detect_images(predictor: Predictor, files: Sequence[Path]) -> Iterator[DetectedImage]:
    """Detect in image files in turn. Unreadable images are skipped with a warning; DataError if none can be read."""
    unreadable = 0
    for index, path in enumerate(files):
        try:
            yield predictor.detect_file(path, index)
        except UnusableImage as error:
            unreadable += 1
            log.warning("%s", error)
    if unreadable == len(files):
        raise DataError(f"none of {len(files)} images can be read")
    if unreadable:
        log.warning("%d of %d images could not be read", unreadable, len(files))


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
