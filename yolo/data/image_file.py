"""Reading an image file into the frame that its boxes were drawn in."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from yolo.data.dataset import Problem
from yolo.errors import DataError

EXIF_ORIENTATION = 0x0112

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # damage is reported here


class UnusableImage(DataError):
    """An image that cannot be trained on, and which kind of problem it is."""

    def __init__(self, message: str, problem: Problem = Problem.CORRUPT_IMAGE) -> None:
        super().__init__(message)
        self.problem = problem


def read_image(path: Path, width: int | None = None, height: int | None = None) -> np.ndarray:
    """An image as (H, W, 3) uint8, blue green red, whatever its file holds (grey, palette, CMYK, alpha, 16 bits).

    A camera's rotation mark is obeyed, unless the annotated width and height say that the boxes were drawn in the
    unrotated frame. Raises UnusableImage naming the file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableImage(f"{path}: {error.strerror or error}", Problem.MISSING_IMAGE) from error
    except ValueError as error:  # a name that no file can have
        raise UnusableImage(f"{str(path)!r}: {error}", Problem.MISSING_IMAGE) from error
    if _is_cut_off(content):
        raise UnusableImage(f"{path}: is cut off: its end is missing", Problem.CORRUPT_IMAGE)
    buffer = np.frombuffer(content, dtype=np.uint8)
    image = _decode(buffer, cv2.IMREAD_COLOR, path)
    if width is None or height is None or image.shape[:2] == (height, width):
        return image
    unrotated = _decode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, path)
    if unrotated.shape[:2] == (height, width):
        return unrotated
    raise UnusableImage(
        f"{path}: is {image.shape[1]}x{image.shape[0]}, annotated as {width}x{height}",
        Problem.SIZE_MISMATCH,
    )


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as displayed (rotation mark obeyed), from the file's header alone.

    Raises UnusableImage naming the file.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            mark = image.getexif().get(EXIF_ORIENTATION, 1)
            is_turned = mark in (5, 6, 7, 8) and image.format != "TIFF"  # which Pillow turns itself
    except FileNotFoundError as error:
        raise UnusableImage(f"{path}: no such file", Problem.MISSING_IMAGE) from error
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise UnusableImage(f"{path}: {error}", Problem.CORRUPT_IMAGE) from error
    return (height, width) if is_turned else (width, height)


def _is_cut_off(content: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; decoders fill up what is missing without a word."""
    if content[:2] == b"\x89P":
        return b"IEND" not in content
    if content[:2] != b"\xff\xd8":
        return False
    # Segments before the picture may hold a thumbnail with an end of its own, so they are stepped over. What a camera
    # appends after the end is its own affair.
    position = 2
    while (marker := content[position : position + 2])[:1] == b"\xff" and marker != b"\xff\xda":
        is_fill = marker == b"\xff\xff"
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        position += 1 if is_fill else 2 + length
    return content.find(b"\xff\xd9", position) < 0


def _decode(buffer: np.ndarray, flags: int, path: Path) -> np.ndarray:
    try:
        image = cv2.imdecode(buffer, flags) if len(buffer) else None
    except cv2.error as error:
        raise UnusableImage(f"{path}: {error.err}", Problem.CORRUPT_IMAGE) from error
    if image is None:
        raise UnusableImage(f"{path}: cannot be decoded", Problem.CORRUPT_IMAGE)
    return image
