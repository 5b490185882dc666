"""Cache of decoded images between epochs, in memory or in a file, shared by all processes of a machine."""

import math
import mmap
import os
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from yolo.data.dataset import ImageRecord
from yolo.data.image.letterbox import size_at_long_side
from yolo.errors import DataError

STAMP = np.dtype([("file", np.uint32), ("pixels", np.uint32)])
"""One per slot: checksums of the image file's state and of the pixels. Zeros mark an empty slot."""


class Slot(NamedTuple):
    """Where an image's pixels are stored; `offset` and `size` in bytes."""

    number: int
    offset: int
    size: int
    shape: tuple[int, int, int]


class ImageCache:
    """Images (rows, columns, 3) uint8 at one size, as many as the budget allows, in order.

    They are stored behind one file descriptor that any process of the machine may open: the first process to decode an
    image stores it for all. Writes use `pwrite`, so a full disk is an error instead of a signal; reads use a memory map,
    without a copy. An image is valid once its stamp is set, and the stamp is written last. A file outlives the run, so
    there the stamp is compared with the image file's size and time and with the pixels' checksum.
    """

    def __init__(
        self, records: Sequence[ImageRecord], size: int, budget: int, place: Path | int
    ) -> None:
        """`size`: long side, pixels. `budget`: bytes. `place`: a file, or the descriptor of a memory file.

        Raises DataError if the file cannot be created.
        """
        self._slots: dict[int, Slot] = {}
        start = end = -(-len(records) * STAMP.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        for number, record in enumerate(records):
            shape = *size_at_long_side(record.height, record.width, size), 3
            slot = Slot(number, end, math.prod(shape), shape)
            if end + slot.size - start > budget:
                break
            self._slots[record.image_id] = slot
            end += slot.size
        self.bytes = end - start
        self._is_file = isinstance(place, Path)
        self._verified: set[int] = set()
        try:
            if isinstance(place, Path):
                place.parent.mkdir(parents=True, exist_ok=True)
                self.descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
            else:
                self.descriptor = place
            if os.fstat(self.descriptor).st_size < end:
                os.truncate(self.descriptor, end)
            self._map = mmap.mmap(self.descriptor, end)
        except (OSError, ValueError) as error:
            raise DataError(
                f"data.cache: {place if self._is_file else 'memory'}: cannot store images there: {error}; "
                "set data.cache_folder to another folder, or data.cache to none"
            ) from error
        self._stamps = np.frombuffer(self._map, STAMP, len(records))

    @classmethod
    def in_memory(cls, records: Sequence[ImageRecord], size: int, budget: int) -> "ImageCache":
        """A cache in memory, freed with the last process that has it open. Others open it by `path`."""
        return cls(records, size, budget, os.memfd_create("yolo-images"))

    @property
    def path(self) -> Path:
        """Path under which other processes of the machine can open the cache while this process lives."""
        return Path(f"/proc/{os.getpid()}/fd/{self.descriptor}")

    @property
    def capacity(self) -> int:
        """Number of images that the budget allows."""
        return len(self._slots)

    def get(self, record: ImageRecord) -> np.ndarray | None:
        """An image's pixels, read-only; None if they are not in the cache."""
        slot = self._slots.get(record.image_id)
        if slot is None or not self._stamps[slot.number]["pixels"]:
            return None
        pixels = np.frombuffer(self._map, np.uint8, slot.size, slot.offset)
        if self._is_file and slot.number not in self._verified:
            if self._stamps[slot.number] != self._stamp(record, pixels):
                return None
            self._verified.add(slot.number)
        return pixels.reshape(slot.shape)

    def put(self, record: ImageRecord, image: np.ndarray) -> None:
        """Store an image's pixels for all processes, if the budget and the disk allow."""
        slot = self._slots.get(record.image_id)
        if slot is None:
            return
        pixels = np.ascontiguousarray(image).reshape(-1)
        try:
            if os.pwrite(self.descriptor, pixels.data, slot.offset) == slot.size:
                stamp = self._stamp(record, pixels)
                os.pwrite(self.descriptor, stamp.tobytes(), slot.number * STAMP.itemsize)
        except OSError:
            self._slots.pop(record.image_id)  # the disk is full: the image is decoded each time

    def _stamp(self, record: ImageRecord, pixels: np.ndarray) -> np.ndarray:
        if not self._is_file:
            return np.array((1, 1), STAMP)
        try:
            status = record.path.stat()
        except OSError:  # reported when the image is read next
            return np.zeros((), STAMP)
        file = zlib.crc32(f"{status.st_size} {status.st_mtime_ns}".encode())
        return np.array((file, zlib.crc32(pixels.data) or 1), STAMP)


def memory_budget() -> int:
    """A quarter of the bytes that are available on this machine or in this container."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no such limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return max(0, free) // 4


def disk_budget(file: Path) -> int:
    """Half of the bytes that are free where a file is or will be; the file's own blocks count as free."""
    folder = next(parent for parent in file.parents if parent.exists())
    used = file.stat().st_blocks * 512 if file.exists() else 0
    return (shutil.disk_usage(folder).free + used) // 2
