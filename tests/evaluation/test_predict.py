import json
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest

from tests.evaluation.test_evaluator import BrightSquareFinder, scene
from yolo.errors import DataError
from yolo.evaluation.detections import Detections
from yolo.evaluation.drawing import class_colour, draw_detections
from yolo.evaluation.predict import (
    DetectedImage,
    Predictor,
    detect_images,
    detections_to_json,
    image_files,
)
from yolo.model import YOLOv5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("b.png", "a.JPG", "below/c.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(path), scene(number)[0])
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def detect(place: Path) -> list[DetectedImage]:
    predictor = Predictor(cast(YOLOv5, BrightSquareFinder()), 64, confidence=0.4)
    return list(detect_images(predictor, image_files([place])))


def test_a_folder_gives_its_images_sorted_those_below_too(folder: Path) -> None:
    assert [path.name for path in image_files([folder])] == ["a.JPG", "b.png", "c.png"]


def test_boxes_are_in_the_pixels_of_the_file(folder: Path) -> None:
    found = detect(folder / "b.png")
    assert found[0].detections.boxes.tolist() == [[8, 8, 32, 32]]
    assert found[0].detections.classes.tolist() == [0]


def test_an_unreadable_image_is_named_counted_and_skipped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken.png").write_bytes(b"not an image")
    assert len(detect(folder)) == 3
    warnings = caplog.messages
    assert "broken.png" in warnings[0]
    assert warnings[1] == "1 of 4 images could not be read"


def test_a_folder_without_images_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images there; expected files with one of .*\.jpg"):
        image_files([tmp_path])


def test_a_missing_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        image_files([tmp_path / "nowhere"])


def test_nothing_but_unreadable_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="none of 1 images can be read"):
        detect(tmp_path)


def test_the_json_has_names_scores_and_boxes(folder: Path) -> None:
    (found,) = detect(folder / "b.png")
    entry = json.loads(json.dumps(detections_to_json(found, ("square", "nothing"))))
    assert (entry["width"], entry["height"]) == (128, 64)
    assert entry["detections"][0]["class"] == "square"
    assert entry["detections"][0]["box"] == [8.0, 8.0, 32.0, 32.0]
    assert 0.4 < entry["detections"][0]["score"] < 1


def test_drawing_changes_a_copy_of_the_image() -> None:
    image = np.full((120, 160, 3), 128, dtype=np.uint8)
    box = np.array([[20, 40, 100, 110]], dtype=np.float32)
    detections = Detections(0, box, np.array([0.9]), np.array([3]))
    drawn = draw_detections(image, detections, ("a", "b", "c", "zebra"))
    assert (image == 128).all()
    assert drawn[110, 60].tolist() == list(class_colour(3))
    assert (drawn[10:30] == 128).any()


@pytest.mark.parametrize(
    "box", [[0, 0, 5, 5], [155, 115, 160, 120], [-9, -9, 400, 400], [3, 3, 3, 3]]
)
def test_labels_stay_in_the_image_wherever_the_box_is(box: list[float]) -> None:
    image = np.zeros((120, 160, 3), dtype=np.uint8)
    detections = Detections(0, np.array([box], np.float32), np.array([0.5]), np.array([0]))
    assert draw_detections(image, detections, ("a very long class name indeed",)).any()


def test_twenty_classes_have_twenty_colours() -> None:
    assert len({class_colour(category) for category in range(20)}) == 20
