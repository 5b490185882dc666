"""Reading an image file into the frame in which its boxes were annotated."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from yolo.data.dataset import Problem
from yolo.data.image.header import MAX_PIXELS, stored_size
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_IMAGE_BYTES, open_regular, read_bytes

EXIF_ORIENTATION = 0x0112
COLOUR_AT = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""OpenCV's flag per reduction factor. A reduced JPEG is never decoded at full size."""

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # damage is reported here


class UnusableImage(DataError):
    """An image that cannot be trained on, and the kind of problem."""

    def __init__(self, message: str, problem: Problem = Problem.CORRUPT_IMAGE) -> None:
        super().__init__(message)
        self.problem = problem


def read_image(
    path: Path, width: int | None = None, height: int | None = None, long_side: int | None = None
) -> np.ndarray:
    """An image as (H, W, 3) uint8 BGR, for any stored kind of pixel (grey, palette, CMYK, alpha, 16 bits).

    The EXIF rotation is applied, unless the annotated width and height say that the boxes refer to the unrotated frame.
    With `long_side`, width and height, the image is decoded at 1/2, 1/4 or 1/8 if the long side is still at least
    `long_side`: a JPEG then takes no more memory than needed. Raises UnusableImage naming the file.
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
    """Decode an image file's bytes, as `read_image`; `name` is used in error messages."""
    try:
        stored = stored_size(content)
    except ValueError as error:
        raise UnusableImage(f"{name}: {error}") from error
    if width is None or height is None:
        return _decode(content, cv2.IMREAD_COLOR, name)
    if stored not in ((width, height), (height, width)):
        raise _size_mismatch(name, stored, width, height)
    reduction, side = 1, max(width, height)
    if long_side is not None:
        reduction = max(factor for factor in COLOUR_AT if factor == 1 or side >= factor * long_side)
    expected = (-(-height // reduction), -(-width // reduction))
    for orientation in (0, cv2.IMREAD_IGNORE_ORIENTATION):
        image = _decode(content, COLOUR_AT[reduction] | orientation, name)
        if image.shape[:2] == expected:
            return image
    full = _decode(content, cv2.IMREAD_COLOR, name)
    if reduction > 1 and (height, width) in (full.shape[:2], full.shape[1::-1]):
        return decode_image(content, name, width, height)  # a format with other rounding
    raise _size_mismatch(name, full.shape[1::-1], width, height)


def _size_mismatch(name: str, found: tuple[int, ...], width: int, height: int) -> UnusableImage:
    text = f"{name}: is {found[0]}x{found[1]}, annotated as {width}x{height}"
    return UnusableImage(text, Problem.SIZE_MISMATCH)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as displayed (EXIF rotation applied), from the file's header only.

    Raises UnusableImage naming the file.
    """
    try:
        with open_regular(path) as file, Image.open(file) as image:
            width, height = image.size
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            is_turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"  # turned by Pillow
    except FileNotFoundError as error:
        raise UnusableImage(f"{path}: no such file", Problem.MISSING_IMAGE) from error
    except Exception as error:  # damaged bytes can raise any kind of error in Pillow
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnusableImage(f"{path}: {reason}") from error
    if width * height > MAX_PIXELS:
        raise UnusableImage(
            f"{path}: {width}x{height} are too many pixels; expected at most {MAX_PIXELS}"
        )
    return (height, width) if is_turned else (width, height)


def _decode(content: bytes, flags: int, name: str) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error as error:
        raise UnusableImage(f"{name}: {error.err}") from error
    if image is None:
        raise UnusableImage(f"{name}: cannot be decoded")
    return image
