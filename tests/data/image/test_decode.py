from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from yolo.data.dataset import Problem
from yolo.data.image.decode import UnusableImage, image_size, read_image

Picture = Callable[..., Path]
TURN = {3: 180, 6: 90, 8: 270}
"""Orientation mark -> how far the stored image was turned against the clock to need it."""


def red_left(size: tuple[int, int] = (60, 40)) -> Image.Image:
    image = Image.new("RGB", size, (0, 0, 0))
    image.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    return image


def is_red_left(image: np.ndarray) -> bool:
    left, right = image[20, 10].astype(int), image[20, 50].astype(int)
    return left[2] > 200 and left[0] < 60 and right.max() < 60


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp", "a.tif"])
def test_common_formats_are_read(picture: Picture, name: str) -> None:
    path = picture(name)
    assert is_red_left(read_image(path, 60, 40))
    assert image_size(path) == (60, 40)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_pixel_becomes_three_bytes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        stored = np.zeros((40, 60), dtype=np.uint16)
        stored[:, :30] = 60_000
        cv2.imwrite(str(path), stored)
    else:
        red_left().convert(mode).save(path)
    image = read_image(path, 60, 40)
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8
    assert image[:, :30].mean() > image[:, 30:].mean() + 20
    if mode in ("P", "RGBA", "CMYK"):
        assert is_red_left(image)
    if mode == "I;16":
        assert abs(int(image[20, 10, 0]) - 60_000 // 256) <= 1


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
@pytest.mark.parametrize("mark", TURN)
def test_a_rotated_photograph_is_read_as_it_was_annotated(
    tmp_path: Path, name: str, mark: int
) -> None:
    path = tmp_path / name
    stored = red_left().rotate(TURN[mark], expand=True)
    exif = Image.Exif()
    exif[0x0112] = mark
    stored.save(path, exif=exif)
    assert is_red_left(read_image(path, 60, 40))
    assert image_size(path) == (60, 40)
    if mark != 3 and name != "a.tif":  # the boxes were drawn in the stored frame
        assert read_image(path, 40, 60).shape == (60, 40, 3)


def test_another_size_than_annotated_names_both(picture: Picture) -> None:
    with pytest.raises(UnusableImage, match="is 60x40, annotated as 64x40") as caught:
        read_image(picture(), 64, 40)
    assert caught.value.problem is Problem.SIZE_MISMATCH


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_image_is_corrupt(picture: Picture, name: str, share: float) -> None:
    path = picture(name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UnusableImage) as caught:
        read_image(path)
    assert caught.value.problem is Problem.CORRUPT_IMAGE
    assert str(path) in str(caught.value)


def test_what_a_camera_appends_is_no_damage(picture: Picture) -> None:
    path = picture("a.jpg")
    path.write_bytes(path.read_bytes() + b"\xff\xda motion" * 5000)
    assert is_red_left(read_image(path, 60, 40))


def test_the_end_of_a_thumbnail_is_not_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    thumbnail = b"\xff\xd8\xff\xda...\xff\xd9"
    red_left().save(path, exif=b"Exif\0\0" + thumbnail)
    assert is_red_left(read_image(path, 60, 40))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnusableImage, match="is cut off"):
        read_image(path)


def test_a_name_that_no_file_can_have_is_a_missing_image() -> None:
    with pytest.raises(UnusableImage, match="null byte") as caught:
        read_image(Path("a\0.jpg"))
    assert caught.value.problem is Problem.MISSING_IMAGE


def test_text_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("not a picture")
    with pytest.raises(UnusableImage, match="cannot be decoded"):
        read_image(path)
    with pytest.raises(UnusableImage):
        image_size(path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableImage, match="nowhere.jpg") as caught:
        read_image(tmp_path / "nowhere.jpg")
    assert caught.value.problem is Problem.MISSING_IMAGE
