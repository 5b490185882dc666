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


def size_at_long_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Rows and columns of an image of which the long side becomes `size` pixels."""
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_long_side(
    image: np.ndarray, size: int, original: tuple[int, int] | None = None
) -> np.ndarray:
    """The image with its long side at `size` pixels; `original` are its rows and columns where it was decoded smaller."""
    height, width = original or image.shape[:2]
    rows, columns = size_at_long_side(height, width, size)
    if image.shape[:2] == (rows, columns):
        return image
    # Below a factor of two the two nearest pixels say what the area's mean does, in a fifth of the time.
    is_much_smaller = 2 * rows < image.shape[0] if original else rows < image.shape[0]
    method = cv2.INTER_AREA if is_much_smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (columns, rows), interpolation=method)
