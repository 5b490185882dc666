"""What an image file says of itself before a pixel is decoded: a few bytes of it can ask for any amount of memory."""

import io
import zlib

from PIL import Image

MOST_PIXELS = 2**27
"""Of an image, 134 million: 400 MB decoded. Larger ones are for cutting into tiles."""
MOST_SCANS = 200
"""Of a progressive JPEG, which is decoded as often as it has scans; encoders write about ten."""
PROGRESSIVE = 0xC2
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def stored_size(content: bytes) -> tuple[int, int]:
    """Width and height of an image file's pixels as they are stored, rotation mark not obeyed.

    ValueError with the reason where it is too large to be decoded, is cut off, or is no image.
    """
    if content[:2] == b"\x89P":
        size = _of_png(content)
    elif content[:2] == b"\xff\xd8":
        size = _of_jpeg(content)
    else:
        size = _of_another(content)
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"cannot be decoded: it says that it is {width}x{height}")
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{width}x{height} are too many pixels; expected at most {MOST_PIXELS}: cut it into tiles"
        )
    return size


def _of_png(content: bytes) -> tuple[int, int]:
    """The checksums of what pictures consist of are compared, since decoders fill up what is missing or damaged."""
    position = 8
    while kind := content[position + 4 : position + 8]:
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        stated = int.from_bytes(content[end : end + 4], "big")
        is_critical = kind[:1].isupper()
        if is_critical and end + 4 <= len(content):
            if zlib.crc32(memoryview(content)[position + 4 : end]) != stated:
                raise ValueError(
                    f"is damaged: bytes {position} to {end} are not as they were written"
                )
            if kind == b"IEND":
                return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
        position = end + 4
    raise ValueError("is cut off: its end is missing")


def _of_jpeg(content: bytes) -> tuple[int, int]:
    # Segments before the picture may hold a thumbnail with an end of its own, so they are stepped over. What a camera
    # appends after the end is its own affair.
    size, kind, position = (0, 0), 0, 2
    while (marker := content[position : position + 2])[:1] == b"\xff" and marker != START_OF_SCAN:
        is_fill = marker == b"\xff\xff"
        if marker[-1] in START_OF_FRAME:
            frame = content[position + 5 : position + 9]
            size, kind = (
                (int.from_bytes(frame[2:], "big"), int.from_bytes(frame[:2], "big")),
                marker[-1],
            )
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        position += 1 if is_fill else 2 + length
    end = content.find(END_OF_IMAGE, position)
    if end < 0:
        raise ValueError("is cut off: its end is missing")
    if kind == PROGRESSIVE and content.count(START_OF_SCAN, position, end) > MOST_SCANS:
        raise ValueError(f"has more than {MOST_SCANS} scans, which would take too long to decode")
    return size


def _of_another(content: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception as error:  # what damaged bytes lead Pillow to is any kind of error
        raise ValueError("cannot be decoded: it is of no known format") from error
