"""Cut images into overlapping tiles, as SAHI does: F. C. Akyon et al., "Slicing Aided Hyper Inference", arXiv 2202.06934.

Its defaults: a fifth of a tile overlaps the next, and an object belongs to a tile that shows a tenth of its area. As in the
paper, the whole image, shrunk to a tile's size, is one view more, so that large objects are seen whole too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from yolo.data.dataset import DetectionDataset
from yolo.data.image.decode import read_image
from yolo.data.image.letterbox import resize_long_side

OVERLAP = 0.2
"""Share of a tile's side: SAHI's overlap_height_ratio and overlap_width_ratio."""
LEAST_VISIBLE = 0.1
"""Share of an object's area: SAHI's min_area_ratio."""


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of an image, its long side shown at `size` pixels."""

    left: int
    top: int
    width: int
    height: int
    size: int

    @property
    def scale(self) -> float:
        """Pixels of the view per pixel of the image."""
        return self.size / max(self.width, self.height)

    def crop(self, image: np.ndarray) -> np.ndarray:
        """The view of an image (H, W, 3)."""
        part = image[self.top : self.top + self.height, self.left : self.left + self.width]
        return resize_long_side(part, self.size, (self.height, self.width))

    def visible(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (M, 4) xyxy of the image, clipped to the view, in its pixels; and which (M,) it shows enough of."""
        low = np.array([self.left, self.top] * 2)
        high = low + np.array([self.width, self.height] * 2)
        clipped = np.clip(boxes, low, high)
        shown, full = _areas(clipped), _areas(boxes)
        return (clipped - low) * self.scale, (shown > 0) & (shown >= LEAST_VISIBLE * full)

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (M, 4) xyxy in the view's pixels, in the image's."""
        return boxes / self.scale + np.array([self.left, self.top] * 2)


def views_of(width: int, height: int, tile: int) -> list[View]:
    """The tiles of an image, row by row, and the whole image at a tile's size if it is larger than a tile."""
    tiles = [
        View(left, top, min(tile, width), min(tile, height), min(tile, max(width, height)))
        for top in _starts(height, tile)
        for left in _starts(width, tile)
    ]
    return tiles if len(tiles) == 1 else [*tiles, View(0, 0, width, height, tile)]


def _starts(side: int, tile: int) -> list[int]:
    """Where tiles begin; the last one ends with the image, and overlaps more."""
    step = tile - int(OVERLAP * tile)
    last = max(0, side - tile)
    return [*range(0, last, step), last]


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = boxes[:, 2:] - boxes[:, :2]
    areas: np.ndarray = sides[:, 0] * sides[:, 1]
    return areas


def write_views(dataset: DetectionDataset, split: str, root: Path, tile: int) -> None:
    """Write the views of all images as one split in COCO format: images/ and annotations/instances_SPLIT.json.

    They are PNG, so that tiles lose nothing more than the images have.
    """
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for record in dataset.records:
        image = read_image(record.path, record.width, record.height)
        for number, view in enumerate(views_of(record.width, record.height, tile)):
            name = f"{record.path.stem}-{number:03d}.png"
            pixels = view.crop(image)
            _, png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            (root / "images" / name).write_bytes(png.tobytes())
            height, width = pixels.shape[:2]
            entry = {"id": len(images), "file_name": name, "width": width, "height": height}
            boxes, is_shown = view.visible(record.boxes)
            for box, category in zip(boxes[is_shown], record.classes[is_shown], strict=True):
                annotations.append(_annotation(len(annotations) + 1, len(images), category, box))
            images.append(entry)
    categories = [{"id": n, "name": name} for n, name in enumerate(dataset.class_names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content), encoding="utf-8")


def _annotation(number: int, image: int, category: int, box: np.ndarray) -> dict[str, object]:
    left, top, right, bottom = (round(float(edge), 2) for edge in box)
    sides = [right - left, bottom - top]
    return {
        **{"id": number, "image_id": image, "category_id": int(category), "iscrowd": 0},
        **{"bbox": [left, top, *sides], "area": sides[0] * sides[1]},
    }
