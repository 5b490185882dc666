"""Decoded images kept between epochs, in memory or in a file, once for all processes of a machine."""

import mmap
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from yolo.data.dataset import ImageRecord
from yolo.data.image.letterbox import size_at_long_side
from yolo.errors import DataError

STAMP = np.dtype([("file", np.uint32), ("pixels", np.uint32)])
"""What an image's slot holds: which state of its file, and a checksum of the pixels; zeros where it is empty."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an image's pixels are kept."""

    number: int
    offset: int
    rows: int
    columns: int

    @property
    def bytes(self) -> int:
        """Of its pixels."""
        return self.rows * self.columns * 3


class ImageCache:
    """Images (rows, columns, 3) uint8 at one size, as many as a budget allows, the first ones first.

    They lie behind one file descriptor that any process of the machine may open: whoever decodes an image first leaves
    it there for all. Written with `pwrite`, so that a full disk is an error and no signal; read through a map, without a
    copy. An image counts as kept only once its stamp stands there, and that is written last. In a file, which outlives
    the run, the stamp is compared with the image file's size and time and with the pixels' checksum.
    """

    def __init__(
        self, records: Sequence[ImageRecord], size: int, budget: int, place: Path | int
    ) -> None:
        """`size`: of the long side, pixels. `budget`: bytes. `place`: a file, or the descriptor of a memory file.

        Raises DataError where the file cannot be made.
        """
        self.total = len(records)
        self._slots: dict[int, Slot] = {}
        end = -(-self.total * STAMP.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        start = end
        for number, record in enumerate(records):
            rows, columns = size_at_long_side(record.height, record.width, size)
            slot = Slot(number, end, rows, columns)
            if end + slot.bytes - start > budget:
                break
            self._slots[record.image_id] = slot
            end += slot.bytes
        self.bytes = end - start
        self._must_check = isinstance(place, Path)
        self._checked: set[int] = set()
        try:
            self.descriptor = _opened(place) if isinstance(place, Path) else place
            if os.fstat(self.descriptor).st_size < end:
                os.truncate(self.descriptor, end)
            self._map = mmap.mmap(self.descriptor, end)
        except (OSError, ValueError) as error:
            where = place if isinstance(place, Path) else "memory"
            raise DataError(
                f"data.cache: {where}: cannot keep images there: {error}; set data.cache_folder to another folder, "
                "or data.cache to none"
            ) from error
        self._stamps = np.frombuffer(self._map, STAMP, self.total)

    @classmethod
    def in_memory(cls, records: Sequence[ImageRecord], size: int, budget: int) -> "ImageCache":
        """In memory that ends with the last process that has it open. `path_of` it is how others open it."""
        return cls(records, size, budget, os.memfd_create("yolo-images"))

    @property
    def path(self) -> Path:
        """Under which other processes of the machine can open it while this one lives."""
        return Path(f"/proc/{os.getpid()}/fd/{self.descriptor}")

    @property
    def capacity(self) -> int:
        """How many images the budget allows."""
        return len(self._slots)

    def get(self, record: ImageRecord) -> np.ndarray | None:
        """An image's pixels, not to be written to; None where they are not kept."""
        slot = self._slots.get(record.image_id)
        if slot is None or not self._stamps[slot.number]["pixels"]:
            return None
        pixels = np.frombuffer(self._map, np.uint8, slot.bytes, slot.offset)
        if self._must_check and slot.number not in self._checked:
            if self._stamps[slot.number] != _stamp(record, pixels, self._must_check):
                return None
            self._checked.add(slot.number)
        return pixels.reshape(slot.rows, slot.columns, 3)

    def keep(self, record: ImageRecord, image: np.ndarray) -> None:
        """Leave an image's pixels for all, where the budget and the disk allow."""
        slot = self._slots.get(record.image_id)
        if slot is None:
            return
        pixels = np.ascontiguousarray(image).reshape(-1)
        try:
            if os.pwrite(self.descriptor, pixels.data, slot.offset) == slot.bytes:
                stamp = _stamp(record, pixels, self._must_check)
                os.pwrite(self.descriptor, stamp.tobytes(), slot.number * STAMP.itemsize)
        except OSError:
            self._slots.pop(record.image_id)  # the disk is full: decoded anew each time


def _stamp(record: ImageRecord, pixels: np.ndarray, must_check: bool) -> np.ndarray:
    if not must_check:
        return np.array((1, 1), STAMP)
    try:
        status = record.path.stat()
    except OSError:  # whoever reads the image next says so
        return np.zeros((), STAMP)
    file = zlib.crc32(f"{status.st_size} {status.st_mtime_ns}".encode())
    return np.array((file, zlib.crc32(pixels.data) or 1), STAMP)


def memory_budget() -> int:
    """A quarter of the bytes that this machine or container can still give."""
    free = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (
            (group / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        free = min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no such limit
        pass
    return max(0, free) // 4


def disk_budget(file: Path) -> int:
    """Half of the bytes that are free where a file is or will be, those it has taken already included."""
    folder = file.parent
    while not folder.exists():
        folder = folder.parent
    taken = file.stat().st_blocks * 512 if file.exists() else 0
    return (shutil.disk_usage(folder).free + taken) // 2


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
