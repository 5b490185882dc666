from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolo.data.dataset import DetectionDataset, Problem, refuse_if_bad
from yolo.data.formats.coco import read_coco
from yolo.errors import DataError

Coco = Callable[..., Path]
BOX = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [5, 5, 20, 10]}


def read(path: Path) -> DetectionDataset:
    return read_coco(path, path.parent / "images")


def test_classes_follow_their_ids_and_boxes_become_corners(coco: Coco) -> None:
    dataset = read(coco())
    assert dataset.class_names == ("dog", "cat")
    assert dataset.category_ids == (3, 7)
    (record,) = dataset.records
    assert record.boxes.tolist() == [[5, 5, 25, 15]]
    assert record.classes.tolist() == [1]
    assert dataset.report.lines() == []


def test_bccd_is_read_whole(bccd: Path) -> None:
    for split, images, boxes in (("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)):
        dataset = read_coco(bccd / "annotations" / f"instances_{split}.json", bccd / "images")
        assert (len(dataset.records), dataset.box_count) == (images, boxes)
        assert dataset.report.bad_images == 0
        assert dataset.class_names == ("RBC", "WBC", "Platelets")


def test_an_image_without_boxes_is_kept(coco: Coco) -> None:
    assert read(coco(annotations=[])).records[0].boxes.shape == (0, 4)


def test_a_crowd_is_marked(coco: Coco) -> None:
    record = read(coco(annotations=[BOX | {"iscrowd": 1}])).records[0]
    assert record.crowd.tolist() == [True]


def test_a_crowd_does_not_hide_an_equal_box(coco: Coco) -> None:
    dataset = read(coco(annotations=[BOX | {"iscrowd": 1}, BOX | {"id": 2}]))
    assert sorted(dataset.records[0].crowd.tolist()) == [False, True]
    assert dataset.box_count == 1


def test_an_objects_area_is_the_stated_one_or_else_its_boxs(coco: Coco) -> None:
    other = BOX | {"id": 2, "bbox": [1, 1, 9, 9]}
    record = read(coco(annotations=[BOX | {"area": 88.5}, other])).records[0]
    assert record.areas.tolist() == [88.5, 81]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bbox": [1, 2, 3]}, Problem.MALFORMED_BOX),
        ({"bbox": [1, 2, 3, "4"]}, Problem.MALFORMED_BOX),
        ({"bbox": [1, 2, 3, float("nan")]}, Problem.MALFORMED_BOX),
        ({"bbox": [1, 2, 3, float("inf")]}, Problem.MALFORMED_BOX),
        ({"bbox": None}, Problem.MALFORMED_BOX),
        ({"bbox": [1, 2, 3, 10**400]}, Problem.MALFORMED_BOX),
        ({"image_id": [1]}, Problem.MALFORMED_BOX),
        ({"iscrowd": "yes"}, Problem.MALFORMED_BOX),
        ({"iscrowd": 5}, Problem.MALFORMED_BOX),
        ({"category_id": 99}, Problem.UNKNOWN_CLASS),
        ({"category_id": [7]}, Problem.UNKNOWN_CLASS),
        ({"image_id": 99}, Problem.UNKNOWN_IMAGE),
        ({"bbox": [5, 5, -20, 10]}, Problem.DEGENERATE_BOX),
        ({"bbox": [5, 5, 0, 10]}, Problem.DEGENERATE_BOX),
        ({"bbox": [100, 100, 20, 20]}, Problem.DEGENERATE_BOX),
        ({"bbox": [50, 5, 30, 10]}, Problem.CLIPPED_BOX),
    ],
)
def test_a_malformed_box_is_counted(coco: Coco, change: dict[str, Any], problem: Problem) -> None:
    dataset = read(coco(annotations=[BOX | {"bbox": [1, 1, 9, 9]}, BOX | change]))
    assert dataset.report.counts[problem] == 1
    assert any(str(problem) in line for line in dataset.report.lines())
    kept = 2 if problem is Problem.CLIPPED_BOX else 1
    assert len(dataset.records[0].boxes) == kept


def test_too_many_malformed_boxes_are_refused_like_bad_images(coco: Coco) -> None:
    report = read(coco(annotations=[BOX, BOX | {"bbox": "here"}])).report
    assert report.bad_images == 0
    refuse_if_bad(report, 0.5)
    with pytest.raises(DataError, match=r"1 of 2 boxes cannot be used \(50.0%.*allows 10.0%"):
        refuse_if_bad(report, 0.1)


def test_a_duplicate_box_is_dropped_and_counted(coco: Coco) -> None:
    dataset = read(coco(annotations=[BOX, BOX | {"id": 2}]))
    assert len(dataset.records[0].boxes) == 1
    assert dataset.report.counts[Problem.DUPLICATE_BOX] == 1


@pytest.mark.parametrize(
    "entry",
    [
        {"id": 2, "file_name": "b.png", "width": 0, "height": 4},
        {"id": 2, "file_name": "", "width": 4, "height": 4},
        {"id": 2.5, "file_name": "b.png", "width": 4, "height": 4},
        {"id": 2, "file_name": "b.png", "width": 4.5, "height": 4},
        {"id": 2, "file_name": "../b.png", "width": 4, "height": 4},
        {"id": 2, "width": 4, "height": 4},
        {"id": 2, "file_name": "b\0.png", "width": 4, "height": 4},
        {"id": 2, "file_name": "b\ud800.png", "width": 4, "height": 4},
        "b.png",
        None,
    ],
)
def test_a_malformed_image_entry_is_counted(coco: Coco, entry: Any) -> None:
    sound = {"id": 1, "file_name": "a.png", "width": 60, "height": 40}
    dataset = read(coco(images=[sound, entry]))
    assert len(dataset.records) == 1
    assert dataset.report.counts[Problem.MALFORMED_IMAGE] == 1
    assert dataset.report.bad_images == 0.5 * dataset.report.images


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"images": []}, "names no image that can be used"),
        ({"images": 3}, "expected an object with a list `images`"),
        ({"categories": []}, "has no categories"),
        ({"categories": [{"id": 1}]}, "expected its own `id` and a `name`"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "expected its own `id`"),
        (
            {"images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}] * 2},
            "two images have the same id",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(coco: Coco, lists: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(coco(**lists))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00", "[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is not"):
        read(path)


def test_a_data_yaml_without_its_format_says_which_key_to_set(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("train: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="is not JSON: .*; for a data.yaml set data.format=yolo"):
        read(path)


def test_a_missing_file_says_which_keys_name_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="set data.root, data.train and data.val"):
        read(tmp_path / "nowhere.json")


def test_values_that_can_be_meant_in_one_way_are_read(coco: Coco) -> None:
    image = {"id": "1", "file_name": ".\\a.png", "width": 60.0, "height": "40"}
    category = {"id": "7", "name": "cat"}
    changes: tuple[dict[str, Any], ...] = (
        {"image_id": 1.0, "iscrowd": None},
        {"category_id": 7.0, "iscrowd": False, "bbox": [1, 1, 9, 9]},
        {"image_id": "1", "iscrowd": True, "bbox": [1, 1, 8, 8]},
    )
    annotations = [BOX | change for change in changes]
    dataset = read(coco(images=[image], categories=[category], annotations=annotations))
    (record,) = dataset.records
    assert (record.image_id, record.width, record.height) == (1, 60, 40)
    assert record.path.is_file()
    assert record.crowd.tolist() == [False, False, True]
    assert dataset.crowd_count == 1
    assert dataset.report.lines() == []


def test_ids_that_are_words_are_numbered(coco: Coco) -> None:
    dataset = read(
        coco(
            images=[{"id": "img-b", "file_name": "a.png", "width": 60, "height": 40}],
            categories=[{"id": "zebra", "name": "zebra"}, {"id": "ant", "name": "ant"}],
            annotations=[BOX | {"image_id": "img-b", "category_id": "ant"}],
        )
    )
    assert dataset.class_names == ("zebra", "ant")
    assert dataset.category_ids == (0, 1)
    assert dataset.records[0].classes.tolist() == [1]


@pytest.mark.parametrize(
    "name", ["/home/me/set/a.png", "C:\\set\\a.png", "https://host/set/a.png?size=1", "./a.png"]
)
def test_another_machines_path_is_taken_for_the_files_name(coco: Coco, name: str) -> None:
    image = {"id": 1, "file_name": name, "width": 60, "height": 40}
    assert read(coco(images=[image])).records[0].path.is_file()


def test_a_polygon_without_a_box_becomes_its_bounding_box(coco: Coco) -> None:
    outline = {"segmentation": [[5, 5, 25, 5, 25, 15], [6, 6, 7, 6, 7, 7]]}
    entry = {key: value for key, value in BOX.items() if key != "bbox"} | outline
    dataset = read(coco(annotations=[entry]))
    assert dataset.records[0].boxes.tolist() == [[5, 5, 25, 15]]
    assert dataset.report.counts == {Problem.POLYGON: 1}


@pytest.mark.parametrize(
    ("change", "example"),
    [
        ({"bbox": [1, 2, 3]}, "annotations[1].bbox: found [1, 2, 3], expected [x, y, width"),
        ({"bbox": None}, "annotations[1].bbox: found None, and no polygon in its place"),
        ({"bbox": None, "segmentation": {"size": [4, 4]}}, "run-length encoded; add `bbox`"),
        ({"iscrowd": 5}, "annotations[1].iscrowd: found 5, expected 0 or 1"),
        ({"image_id": None}, "annotations[1].image_id: found None, expected an image's id"),
        ({"category_id": 99}, "annotations[1].category_id: found 99, which is no category"),
    ],
)
def test_what_is_refused_names_field_value_and_reason(
    coco: Coco, change: dict[str, Any], example: str
) -> None:
    report = read(coco(annotations=[BOX, BOX | change])).report
    assert example in report.lines()[0]


def test_an_image_entry_names_field_and_value(coco: Coco) -> None:
    images = [{"id": 1, "file_name": "a.png", "width": 60}]
    with pytest.raises(DataError, match=r"images\[0\].height: found None, expected pixels"):
        read(coco(images=images))


def test_a_test_split_may_have_no_annotations(coco: Coco) -> None:
    assert read(coco(annotations=None)).box_count == 0


def test_normalised_boxes_are_refused(coco: Coco) -> None:
    annotations = [BOX | {"bbox": [0.1, 0.2, 0.5, 0.6]}, BOX | {"bbox": [0, 0, 1, 1]}]
    with pytest.raises(DataError, match="all 2 boxes lie between 0 and 1.*multiply x and width"):
        read(coco(annotations=annotations))
    assert read(coco(annotations=[*annotations, BOX])).box_count == 3


def test_corners_in_place_of_width_and_height_are_refused(coco: Coco) -> None:
    corners = [BOX | {"bbox": [30 + n, 20, 50 + n, 35]} for n in range(10)]
    with pytest.raises(DataError, match="100% of the boxes reach out.*subtract x and y"):
        read(coco(annotations=corners))
    few = read(coco(annotations=corners[:3])).report
    assert "subtract x and y" in few.warnings[0]
    assert read(coco(annotations=[*corners, BOX | {"bbox": [50, 5, 9, 9]}])).report.warnings == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(entry=anything, box=anything, category=anything)
def test_no_entry_whatever_crashes(coco: Coco, entry: Any, box: Any, category: Any) -> None:
    annotations = [BOX, entry, BOX | {"bbox": box}, BOX | {"category_id": category}]
    assert len(read(coco(annotations=annotations)).records) == 1
