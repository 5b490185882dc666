"""Reading an image file into the frame in which its boxes were annotated.

Its header is checked before a pixel is decoded: a few bytes of it can request any amount of memory.
"""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from yolo.data.dataset import Problem
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_IMAGE_BYTES, open_regular, read_bytes

MAX_PIXELS = 2**27
"""134 million pixels, 400 MB decoded. Cut larger images into tiles."""
MAX_SCANS = 200
"""A progressive JPEG is decoded once per scan; encoders write about ten."""
PROGRESSIVE = 0xC2
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
SUFFIXES_OF_16_BITS = frozenset({".png", ".tif", ".tiff", ".jp2", ".pgm", ".ppm", ".pnm"})
SAMPLED_IMAGES, SAMPLED_BYTES = 16, 64_000_000
"""Images of a data set that are decoded once more to see how many of their 16 bits are used."""
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
    """Width and height as displayed (EXIF rotation applied), from the header only. Raises UnusableImage naming the file."""
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


def unused_bits(paths: Sequence[Path]) -> str | None:
    """A warning if 16-bit images leave their highest bits unused, as cameras of 12 bits do; looks at a sample.

    Of 16 bits the upper 8 are trained on: of 12 that are used, 4 are left.
    """
    deep = [path for path in paths if path.suffix.lower() in SUFFIXES_OF_16_BITS]
    step = -(-len(deep) // SAMPLED_IMAGES) or 1
    found = [(value, path) for path in deep[::step] if (value := _largest_of_16_bits(path))]
    value, path = max(found, default=(0, Path()))
    bits = value.bit_length()
    if not found or bits > 14:
        return None
    return (
        f"16-bit images use {bits} of their bits (at most {value} of 65535, in {path}), and are read as values 0 to "
        f"{value >> 8} of 255; multiply them by {2 ** (16 - bits)}, or convert them to 8 bits"
    )


def _largest_of_16_bits(path: Path) -> int | None:
    """The largest value of an image of 16 bits per channel; None for others, and for what cannot be read."""
    try:
        content = read_bytes(path, SAMPLED_BYTES)
        if content[:2] == b"\x89P" and content[24:25] != b"\x10":
            return None
        width, height = stored_size(content)
        if width * height * 6 > SAMPLED_BYTES:
            return None
        image = _decode(content, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR, str(path))
    except (OSError, ValueError, UnusableImage):  # counted when all images are verified
        return None
    return int(image.max()) if image.dtype == np.uint16 else None


def _decode(content: bytes, flags: int, name: str) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error as error:
        raise UnusableImage(f"{name}: {error.err}") from error
    if image is None:
        raise UnusableImage(f"{name}: cannot be decoded")
    return image


def stored_size(content: bytes) -> tuple[int, int]:
    """Width and height of an image file's pixels as stored, before its EXIF rotation.

    Raises ValueError with the reason if the image is too large to decode, is cut off, or is no image.
    """
    if content[:2] == b"\x89P":
        width, height = _png_size(content)
    elif content[:2] == b"\xff\xd8":
        width, height = _jpeg_size(content)
    else:
        width, height = _size_by_pillow(content)
    if width < 1 or height < 1:
        raise ValueError(f"cannot be decoded: its header says {width}x{height}")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{width}x{height} are too many pixels; expected at most {MAX_PIXELS}: cut it into tiles"
        )
    return width, height


def _png_size(content: bytes) -> tuple[int, int]:
    """Compares the checksums of critical chunks, because decoders fill in what is missing or damaged."""
    position = 8
    while kind := content[position + 4 : position + 8]:
        end = position + 8 + _number(content[position : position + 4])
        if kind[:1].isupper() and end + 4 <= len(content):
            checksum = zlib.crc32(memoryview(content)[position + 4 : end])
            if checksum != _number(content[end : end + 4]):
                raise ValueError(f"is damaged: wrong checksum of bytes {position} to {end}")
            if kind == b"IEND":
                return _number(content[16:20]), _number(content[20:24])
        position = end + 4
    raise ValueError("is cut off: its end is missing")


def _jpeg_size(content: bytes) -> tuple[int, int]:
    # Segments before the image may hold a thumbnail with its own end, so they are stepped over. What a camera appends
    # after the end is ignored.
    size, kind, position = (0, 0), 0, 2
    while (marker := content[position : position + 2])[:1] == b"\xff" and marker != START_OF_SCAN:
        if marker[-1] in START_OF_FRAME:
            kind, frame = marker[-1], content[position + 5 : position + 9]
            size = _number(frame[2:]), _number(frame[:2])
        is_fill = marker == b"\xff\xff"
        position += 1 if is_fill else 2 + _number(content[position + 2 : position + 4])
    end = content.find(END_OF_IMAGE, position)
    if end < 0:
        raise ValueError("is cut off: its end is missing")
    if kind == PROGRESSIVE and content.count(START_OF_SCAN, position, end) > MAX_SCANS:
        raise ValueError(f"has more than {MAX_SCANS} scans, which would take too long to decode")
    return size


def _size_by_pillow(content: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception as error:  # damaged bytes can raise any kind of error in Pillow
        raise ValueError("cannot be decoded: unknown image format") from error


def _number(big_endian: bytes) -> int:
    return int.from_bytes(big_endian, "big")
