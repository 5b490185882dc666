import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord, Problem
from yolo.data.inspection import inspect
from yolo.data.plausibility import warn_of_splits
from yolo.errors import DataError
from yolo.recipe import prepare
from yolo.recipe.schema.recipe import ResolvedData

Box = tuple[float, float, float, float]
MIDDLE: Box = (10, 10, 60, 60)


def split(
    boxes: Sequence[Box],
    classes: Sequence[int] | None = None,
    names: tuple[str, ...] = ("cat",),
    path: str = "train.jpg",
) -> DetectionDataset:
    """One image of 100 x 100 pixels."""
    count = len(boxes)
    record = ImageRecord(
        0,
        Path(path),
        100,
        100,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([0] * count if classes is None else classes, np.int64),
        np.zeros(count, bool),
        np.ones(count, np.float32),
    )
    return DetectionDataset(
        path, names, tuple(range(len(names))), (record,), DataReport(path, 1, count)
    )


def warnings(train: DetectionDataset, val: DetectionDataset | None = None) -> list[str]:
    val = val or split([MIDDLE], names=train.class_names, path="val.jpg")
    warn_of_splits(train, val, 64)
    return train.report.warnings + val.report.warnings


def test_a_sound_data_set_has_no_warnings() -> None:
    assert warnings(split([MIDDLE, (1, 1, 50, 50)])) == []


def test_boxes_under_two_pixels_of_the_networks_input_are_warned_of() -> None:
    few, many = [MIDDLE] * 19 + [(1, 1, 3, 50)], [MIDDLE] * 8 + [(1, 1, 4, 50)] * 2
    assert warnings(split(few)) == []
    (warning,) = warnings(split(many))
    assert "20% of the boxes are smaller than 2 pixels at model.image_size 64" in warning


def test_many_clipped_boxes_are_warned_of() -> None:
    train = split([MIDDLE] * 5)
    train.report.counts[Problem.CLIPPED_BOX] = 1
    (warning,) = warnings(train)
    assert "20% of the boxes were clipped to their image" in warning


def test_classes_without_a_training_box_are_warned_of() -> None:
    names = ("cat", "dog", "bird")
    (warning,) = warnings(split([MIDDLE] * 2, [0, 2], names))
    assert "1 of 3 classes have no training box: dog" in warning
    (warning,) = warnings(split([MIDDLE] * 2, [1, 1], names))
    assert "all boxes are of class 'dog'; 2 of 3 classes have no training box: cat, bird" in warning
    assert warnings(split([MIDDLE] * 3, [0, 1, 2], names)) == []


def test_validation_images_that_are_trained_on_are_warned_of() -> None:
    (warning,) = warnings(split([MIDDLE]), split([MIDDLE]))
    assert "1 of 1 validation images are training images too, such as train.jpg" in warning


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_unused_bits_of_16_bit_images_are_warned_of(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    for shift, dtype in ((0, np.uint16), (4, np.uint16), (0, np.uint8)):
        pixels = np.full((8, 8), 200, np.uint8) if dtype is np.uint8 else None
        image = np.full((8, 8), 0xABC << shift, np.uint16) if pixels is None else pixels
        path.write_bytes(cv2.imencode(f".{suffix}", image)[1].tobytes())
        found = warnings(split([MIDDLE], path=str(path)))
        if dtype is np.uint16 and shift == 0:
            assert "16-bit images use 12 of their bits (at most 2748 of 65535" in found[0]
            assert "read as values 0 to 10 of 255; multiply them by 16" in found[0]
        else:
            assert found == []


@pytest.fixture
def section(tmp_path: Path, picture: Callable[..., Path]) -> Callable[..., ResolvedData]:
    """A COCO data set of one image per split; keywords replace lists of the training split's file."""

    def write(**train: Any) -> ResolvedData:
        for number, name in enumerate(("train", "val")):
            picture(f"{name}.png")
            content = {
                "images": [{"id": number, "file_name": f"{name}.png", "width": 60, "height": 40}],
                "categories": [{"id": 1, "name": "cat"}],
                "annotations": [{"image_id": number, "category_id": 1, "bbox": [5, 5, 20, 10]}],
            }
            changed = content | (train if name == "train" else {})
            (tmp_path / f"{name}.json").write_text(json.dumps(changed))
        files = [f"data.root={tmp_path}", "data.train=train.json", "data.val=val.json"]
        return prepare("recipes/demo.yaml", files, 1).resolved.recipe.data

    return write


def test_a_sound_data_set_passes_the_inspection(section: Callable[..., ResolvedData]) -> None:
    assert inspect(section(), 64) == []


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"annotations": []}, "no box to learn from"),
        ({"annotations": [{"image_id": 0, "category_id": 9}]}, "1 of 1 boxes cannot be used"),
        ({"categories": [{"id": 1, "name": "dog"}]}, r"its classes \['cat'\] are not those of"),
        (
            {"images": [{"id": 0, "file_name": "gone.png", "width": 60, "height": 40}]},
            "data.train: .*train.json: none of its images was found, such as .*gone.png",
        ),
    ],
)
def test_what_would_stop_a_run_stops_the_inspection(
    section: Callable[..., ResolvedData], train: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        inspect(section(**train), 64)


def test_a_large_file_is_not_opened_and_that_is_said(
    section: Callable[..., ResolvedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = section()
    monkeypatch.setattr("yolo.data.inspection.LARGEST_BYTES", 10)
    (line,) = inspect(data, 64)
    assert line.endswith("train.json: has 0 MB and was not opened")


def test_of_many_images_only_the_lists_are_read(
    tmp_path: Path, picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolo.data.inspection.MOST_IMAGES", 1)
    for name in ("train/a.png", "train/b.png"):
        picture(name)
    (tmp_path / "images" / "val").mkdir()
    path = tmp_path / "data.yaml"
    path.write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    overrides = [f"data.root={path}", "data.format=yolo"]
    data = prepare("recipes/demo.yaml", overrides, 1).resolved.recipe.data
    with pytest.raises(DataError, match="data.val: .*data.yaml: holds no images"):
        inspect(data, 64)
    picture("val/c.png")
    (line,) = inspect(data, 64)
    assert "3 images were listed, but their labels were not read" in line
