"""Fitting an image into a square without changing its proportions."""

from dataclasses import dataclass

import cv2
import numpy as np

GREY = 114
"""The public YOLOv5's filling, in all three channels."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where an image came to lie in its square."""

    scale: float
    left: int
    top: int
    width: int
    """Of the original image, in pixels."""
    height: int

    def boxes_into(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (M, 4) xyxy from the image's pixels to the square's."""
        return boxes * self.scale + np.array([self.left, self.top] * 2, dtype=np.float32)

    def boxes_back(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (M, 4) xyxy from the square's pixels to the image's, clipped to the image."""
        back = (boxes - np.array([self.left, self.top] * 2, dtype=np.float32)) / self.scale
        return np.clip(back, 0, np.array([self.width, self.height] * 2, dtype=np.float32))


def letterbox(image: np.ndarray, size: int) -> tuple[np.ndarray, Letterbox]:
    """An image (H, W, 3) in the middle of a grey square (size, size, 3), its long side as long as the square's."""
    height, width = image.shape[:2]
    resized = resize_long_side(image, size)
    rows, columns = resized.shape[:2]
    top, left = (size - rows) // 2, (size - columns) // 2
    square = np.full((size, size, 3), GREY, dtype=np.uint8)
    square[top : top + rows, left : left + columns] = resized
    return square, Letterbox(size / max(height, width), left, top, width, height)


def resize_long_side(image: np.ndarray, size: int) -> np.ndarray:
    """The image with its long side at `size` pixels."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    if scale == 1:
        return image
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(
        image, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
