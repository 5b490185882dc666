import os
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from yolo.data.dataset import ImageRecord
from yolo.data.image.cache import ImageCache
from yolo.data.image.decode import UnusableImage
from yolo.data.image.resized import ResizedImages
from yolo.errors import DataError

SIZE = 32
BYTES = 32 * 24 * 3
"""Of one kept image."""


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    """Three photographs of 64 x 48 pixels, each of one brightness."""
    made = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((48, 64, 3), 50 * number + 20, np.uint8))
        nothing = np.zeros(0)
        made.append(
            ImageRecord(number, path, 64, 48, np.zeros((0, 4)), nothing, nothing > 0, nothing)
        )
    return made


def brightness(images: ResizedImages) -> list[int]:
    return [int(images[index].mean()) for index in range(len(images))]


def test_an_image_is_decoded_once(records: list[ImageRecord]) -> None:
    images = ResizedImages(records, SIZE, ImageCache.in_memory(records, SIZE, 10**6))
    assert brightness(images) == [20, 70, 120]
    for record in records:
        record.path.unlink()
    assert brightness(images) == [20, 70, 120]


def test_what_the_budget_has_no_room_for_is_decoded_each_time(records: list[ImageRecord]) -> None:
    kept = ImageCache.in_memory(records, SIZE, 2 * BYTES + 5)
    assert (kept.capacity, kept.bytes) == (2, 2 * BYTES)
    images = ResizedImages(records, SIZE, kept)
    assert brightness(images) == [20, 70, 120]
    for record in records:
        record.path.unlink()
    assert [int(images[index].mean()) for index in range(2)] == [20, 70]
    with pytest.raises(UnusableImage, match=r"2\.png"):
        images[2]


OTHER_PROCESS = """
import os, sys
import numpy as np
from pathlib import Path
from yolo.data.dataset import ImageRecord
from yolo.data.image.cache import ImageCache

nothing = np.zeros(0)
records = [
    ImageRecord(n, Path("gone"), 64, 48, np.zeros((0, 4)), nothing, nothing > 0, nothing) for n in range(3)
]
cache = ImageCache(records, 32, 10**6, os.open(sys.argv[1], os.O_RDWR))
print([None if (image := cache.get(record)) is None else int(image.mean()) for record in records])
cache.put(records[1], np.full((24, 32, 3), 99, np.uint8))
"""


def test_processes_of_a_machine_share_them(records: list[ImageRecord]) -> None:
    kept = ImageCache.in_memory(records, SIZE, 10**6)
    images = ResizedImages(records, SIZE, kept)
    assert images[0].mean() == 20
    other = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(kept.path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == "[20, None, None]"
    assert images[1].mean() == 99  # what the other left


def test_a_file_is_found_again_and_altered_images_are_not(
    records: list[ImageRecord], tmp_path: Path
) -> None:
    place = tmp_path / "cache" / "demo.images"
    assert brightness(ResizedImages(records, SIZE, ImageCache(records, SIZE, 10**6, place))) == [
        20,
        70,
        120,
    ]
    again = ImageCache(records, SIZE, 10**6, place)
    assert all(again.get(record) is not None for record in records)

    cv2.imwrite(str(records[1].path), np.full((48, 64, 3), 200, np.uint8))
    os.utime(records[1].path, ns=(1, 1))
    torn = again._slots[2].offset + 7
    with place.open("r+b") as file:  # as a power cut may leave it
        file.seek(torn)
        file.write(b"\xff")
    later = ImageCache(records, SIZE, 10**6, place)
    assert [later.get(record) is None for record in records] == [False, True, True]
    assert brightness(ResizedImages(records, SIZE, later)) == [20, 200, 120]
    records[0].path.unlink()
    with pytest.raises(UnusableImage, match=r"0\.png"):
        ResizedImages(records, SIZE, ImageCache(records, SIZE, 10**6, place))[0]


def test_a_full_disk_costs_nothing_but_the_keeping(
    records: list[ImageRecord], tmp_path: Path
) -> None:
    kept = ImageCache(records, SIZE, 10**6, tmp_path / "images")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kept._slots[1].offset, before[1]))
    try:
        assert brightness(ResizedImages(records, SIZE, kept)) == [20, 70, 120]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [kept.get(record) is None for record in records] == [False, True, True]


def test_a_place_that_cannot_be_is_named(records: list[ImageRecord], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache: .*file/images: cannot store images there"):
        ImageCache(records, SIZE, 10**6, tmp_path / "file" / "images")
