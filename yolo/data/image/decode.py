"""Reading an image file into the frame that its boxes were drawn in."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from yolo.data.dataset import Problem
from yolo.data.image.header import MOST_PIXELS, stored_size
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_IMAGE_BYTES, open_regular, read_bytes

EXIF_ORIENTATION = 0x0112
COLOUR_AT = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""How to decode at a fraction of the size: a JPEG's blocks are then never computed whole."""

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # damage is reported here


class UnusableImage(DataError):
    """An image that cannot be trained on, and which kind of problem it is."""

    def __init__(self, message: str, problem: Problem = Problem.CORRUPT_IMAGE) -> None:
        super().__init__(message)
        self.problem = problem


def read_image(
    path: Path, width: int | None = None, height: int | None = None, long_side: int | None = None
) -> np.ndarray:
    """An image as (H, W, 3) uint8, blue green red, whatever its file holds (grey, palette, CMYK, alpha, 16 bits).

    A camera's rotation mark is obeyed, unless the annotated width and height say that the boxes were drawn in the
    unrotated frame. With `long_side`, and width and height, it is decoded at 1/2, 1/4 or 1/8 where that side is still
    that long: a JPEG then never becomes larger in memory than it must. Raises UnusableImage naming the file.
    """
    try:
        content = read_bytes(path, MOST_IMAGE_BYTES)
    except OSError as error:
        raise UnusableImage(f"{path}: {error.strerror or error}", Problem.MISSING_IMAGE) from error
    return decode_image(content, str(path), width, height, long_side)


def decode_image(
    content: bytes,
    name: str,
    width: int | None = None,
    height: int | None = None,
    long_side: int | None = None,
) -> np.ndarray:
    """An image file's bytes, as `read_image` has them; `name` is for its messages."""
    try:
        stored = stored_size(content)
    except ValueError as error:
        raise UnusableImage(f"{name}: {error}", Problem.CORRUPT_IMAGE) from error
    buffer = np.frombuffer(content, dtype=np.uint8)
    if width is None or height is None:
        return _decode(buffer, cv2.IMREAD_COLOR, name)
    if stored not in ((width, height), (height, width)):
        raise _other_size(name, stored, width, height)
    reduction = _reduction(max(width, height), long_side)
    expected = (-(-height // reduction), -(-width // reduction))
    colour = COLOUR_AT[reduction]
    image = _decode(buffer, colour, name)
    if image.shape[:2] == expected:
        return image
    unrotated = _decode(buffer, colour | cv2.IMREAD_IGNORE_ORIENTATION, name)
    if unrotated.shape[:2] == expected:
        return unrotated
    whole = _decode(buffer, cv2.IMREAD_COLOR, name)
    if reduction > 1 and (height, width) in (whole.shape[:2], whole.shape[1::-1]):
        return decode_image(content, name, width, height)  # a format that rounds otherwise
    raise _other_size(name, whole.shape[1::-1], width, height)


def _other_size(name: str, found: tuple[int, ...], width: int, height: int) -> UnusableImage:
    text = f"{name}: is {found[0]}x{found[1]}, annotated as {width}x{height}"
    return UnusableImage(text, Problem.SIZE_MISMATCH)


def _reduction(side: int, long_side: int | None) -> int:
    """By how much a side may shrink and not fall below `long_side`: 1, 2, 4 or 8."""
    if long_side is None:
        return 1
    return max(
        reduction for reduction in COLOUR_AT if reduction == 1 or side >= reduction * long_side
    )


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as displayed (rotation mark obeyed), from the file's header alone.

    Raises UnusableImage naming the file.
    """
    try:
        with open_regular(path) as file, Image.open(file) as image:
            width, height = image.size
            mark = image.getexif().get(EXIF_ORIENTATION, 1)
            is_turned = mark in (5, 6, 7, 8) and image.format != "TIFF"  # which Pillow turns itself
    except FileNotFoundError as error:
        raise UnusableImage(f"{path}: no such file", Problem.MISSING_IMAGE) from error
    except Exception as error:  # what damaged bytes lead Pillow to is any kind of error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnusableImage(f"{path}: {reason}", Problem.CORRUPT_IMAGE) from error
    if width * height > MOST_PIXELS:
        text = f"{path}: {width}x{height} are too many pixels; expected at most {MOST_PIXELS}"
        raise UnusableImage(text, Problem.CORRUPT_IMAGE)
    return (height, width) if is_turned else (width, height)


def _decode(buffer: np.ndarray, flags: int, name: str) -> np.ndarray:
    try:
        image = cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise UnusableImage(f"{name}: {error.err}", Problem.CORRUPT_IMAGE) from error
    if image is None:
        raise UnusableImage(f"{name}: cannot be decoded", Problem.CORRUPT_IMAGE)
    return image
