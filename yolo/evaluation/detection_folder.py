"""The folder of `yolo detect`: images with their boxes drawn, and detections.json. Writes over nothing but its own files."""

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo.errors import DataError
from yolo.model.io.weights import atomic_write

LISTING = "detections.json"
ROW_KEYS = frozenset({"image", "width", "height", "detections"})
HEADER_BYTES = 33
"""A PNG's signature and its first chunk, IHDR."""


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


MARK = _chunk(b"tEXt", b"Software\0yolo detect")
"""The chunk that follows the header in every drawing."""


class DetectionFolder:
    """Where drawings of some images go. An existing file is replaced only if it is an earlier drawing, and no input."""

    def __init__(self, path: Path, inputs: Iterable[Path]) -> None:
        """Create the folder. DataError if its detections.json is somebody else's."""
        self.path = path
        self.listing = path / LISTING
        self._taken = {image.resolve() for image in inputs}
        path.mkdir(parents=True, exist_ok=True)
        if self.listing.exists() and not _is_listing(self.listing):
            raise DataError(
                f"{self.listing}: exists, and `yolo detect` did not write it; choose another folder with --out"
            )

    def write(self, image: Path, drawn: np.ndarray) -> Path:
        """Write an image's drawing (H, W, 3) uint8, BGR, as a PNG of the same name; returns its path.

        The name gets a number if another image or file has it. Raises OSError if it cannot be written.
        """
        path = self._free_path(image.stem)
        png = cv2.imencode(".png", drawn)[1].tobytes()
        path.write_bytes(png[:HEADER_BYTES] + MARK + png[HEADER_BYTES:])
        self._taken.add(path.resolve())
        return path

    def write_listing(self, rows: Sequence[dict[str, object]]) -> None:
        """Write detections.json."""
        with atomic_write(self.listing) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    def _free_path(self, stem: str) -> Path:
        path, number = self.path / f"{stem}.png", 1
        while path.resolve() in self._taken or (path.exists() and not is_drawing(path)):
            number += 1
            path = self.path / f"{stem}-{number}.png"
        return path


def is_drawing(path: Path) -> bool:
    """Whether `yolo detect` drew this image."""
    try:
        with path.open("rb") as file:
            return file.read(HEADER_BYTES + len(MARK)).endswith(MARK)
    except OSError:
        return False


def _is_listing(path: Path) -> bool:
    try:
        rows: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(rows, list) and all(
        isinstance(row, dict) and row.keys() == ROW_KEYS for row in rows
    )
