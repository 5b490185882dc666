"""Checks of an image file's header before a pixel is decoded: a few bytes of it can request any amount of memory."""

import io
import zlib

from PIL import Image

MAX_PIXELS = 2**27
"""134 million pixels, 400 MB decoded. Cut larger images into tiles."""
MAX_SCANS = 200
"""A progressive JPEG is decoded once per scan; encoders write about ten."""
PROGRESSIVE = 0xC2
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


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
