"""Image files: damaged, of impossible sizes, or none at all."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.fuzz.mutations import damaged, odd_files

WIDTH, HEIGHT = 60, 40
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
SUFFIX = {"JPEG": "jpg", "PNG": "png", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif", "GIF": "png"}


def sound(format: str) -> bytes:
    """A picture with enough in it for any byte to matter."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def image_files(folder: Path, random: Random) -> Iterator[tuple[str, str]]:
    """Writes files that a data set may name: yields what is wrong, and the name."""
    for format in FORMATS:
        count = {"JPEG": 42, "PNG": 42}.get(format, 7)
        for number, (name, content) in enumerate(damaged(sound(format), random, count)):
            yield f"{format}, {name}", _put(folder, f"{format}{number}.{SUFFIX[format]}", content)
    jpeg, png = sound("JPEG"), sound("PNG")
    for number, (name, content) in enumerate(
        (
            ("a PNG of 100,000 x 100,000", _png(100_000, 100_000)),
            ("a PNG of 2^31 - 1 squared", _png(2**31 - 1, 2**31 - 1)),
            ("a PNG of 20,000 x 20,000 in 5 MB", _png(20_000, 20_000, rows=20_000)),
            ("a PNG of 0 x 0", _png(0, 0)),
            ("a PNG that lies about its size", _png(WIDTH, HEIGHT, rows=3)),
            ("a PNG with a text of 200 MB", _with_text(png)),
            ("a JPEG of 65,535 x 65,535", _jpeg_says(jpeg, 65_535, 65_535)),
            ("a JPEG of 0 x 0", _jpeg_says(jpeg, 0, 0)),
            ("a JPEG that lies about its size", _jpeg_says(jpeg, WIDTH * 2, HEIGHT)),
            ("a JPEG of 1,000 scans", _scans(1_000)),
            ("a JPEG with a segment without end", jpeg[:2] + b"\xff\xe1\xff\xff" + jpeg[2:]),
            ("a JPEG with a segment of no length", jpeg[:2] + b"\xff\xe1\0\0" + jpeg[2:]),
            ("a JPEG of its ends alone", b"\xff\xd8\xff\xd9"),
            ("fill bytes", b"\xff\xd8" + b"\xff" * 100_000),
            ("a BMP of 2^31 - 1 squared", _bmp(2**31 - 1, 2**31 - 1)),
            ("a BMP of negative sizes", _bmp(-5, -5)),
            ("a TIFF with a loop of folders", _tiff_loop()),
            ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            ("a script", b"#!/bin/sh\ntouch canary\n"),
            ("HTML, as of a failed download", b"<!DOCTYPE html><html>404</html>"),
            ("a pointer of git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n"),
            ("a ZIP", b"PK\x03\x04" + bytes(100)),
            ("zeros", bytes(10_000)),
            ("another picture's size", _other_size()),
        )
    ):
        suffix = "jpg" if "JPEG" in name else "png"
        yield name, _put(folder, f"made{number}.{suffix}", content)
    for number, odd in enumerate(odd_files(folder / "odd.png")):
        kept = folder / f"odd{number}.png"
        if os.path.lexists(folder / "odd.png"):
            os.rename(folder / "odd.png", kept)
        if odd == "a link to itself":
            kept.unlink()
            kept.symlink_to(kept.name)
        yield f"{odd} for an image", kept.name


def _put(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return name


def _other_size() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(stream, "PNG")
    return stream.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _png(width: int, height: int, rows: int = 1) -> bytes:
    row = bytes(1 + min(width, 20_000) * 3)
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _with_text(png: bytes) -> bytes:
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(10**6)) for _ in range(200)) + packer.flush()
    return png[:33] + _chunk(b"zTXt", b"a\0\0" + text) + png[33:]


def _jpeg_says(jpeg: bytes, width: int, height: int) -> bytes:
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]


def _scans(count: int) -> bytes:
    """A progressive picture of 12 million pixels whose last scan comes again and again."""
    stream = io.BytesIO()
    Image.new("L", (4_000, 3_000), 77).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + b"\xff\xd9"


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def _tiff_loop() -> bytes:
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", 1)
        + struct.pack("<HHII", 256, 4, 1, 60)
        + b"\x08\0\0\0"
    )
