from collections.abc import Callable
from pathlib import Path

import pytest

from yolo.data.dataset import Problem
from yolo.data.formats.yolo_txt import label_path, read_yolo
from yolo.errors import DataError

Picture = Callable[..., Path]
YAML = "path: .\ntrain: images\nval: images\nnames: [cat, dog]\n"


@pytest.fixture
def write(tmp_path: Path, picture: Picture) -> Callable[..., Path]:
    def write_set(labels: str = "1 0.5 0.5 0.5 0.5\n", yaml: str = YAML) -> Path:
        picture("a.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / "a.txt").write_text(labels)
        (tmp_path / "images" / "a.txt").write_bytes(b"images/\xff.png")
        (tmp_path / "data.yaml").write_text(yaml)
        return tmp_path / "data.yaml"

    return write_set


def test_normalised_centres_become_corners_in_pixels(write: Callable[..., Path]) -> None:
    dataset = read_yolo(write(), "train")
    (record,) = dataset.records
    assert record.boxes.tolist() == [[15, 10, 45, 30]]
    assert record.classes.tolist() == [1]
    assert (record.width, record.height) == (60, 40)
    assert dataset.class_names == ("cat", "dog")


def test_an_image_without_a_label_file_has_no_boxes(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write()
    (tmp_path / "labels" / "a.txt").unlink()
    assert len(read_yolo(path, "val").records[0].boxes) == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1 0.5 0.5 0.5", Problem.MALFORMED_BOX),
        ("1 0.5 0.5 0.5 0.5 0.9", Problem.MALFORMED_BOX),
        ("1 0.5 0.5 0.5 0.5 0.9 0.9 0.9", Problem.MALFORMED_BOX),
        ("1 30 20 10 10", Problem.MALFORMED_BOX),
        ("1 0.1 0.1 0.5 0.1 0.5 nan", Problem.MALFORMED_BOX),
        ("cat 0.5 0.5 0.5 0.5", Problem.MALFORMED_BOX),
        ("1 nan 0.5 0.5 0.5", Problem.MALFORMED_BOX),
        ("1 inf 0.5 0.5 0.5", Problem.MALFORMED_BOX),
        ("1.5 0.5 0.5 0.5 0.5", Problem.MALFORMED_BOX),
        ("nan 0.5 0.5 0.5 0.5", Problem.MALFORMED_BOX),
        ("1 0.5 0.5 -0.5 0.5", Problem.MALFORMED_BOX),
        ("2 0.5 0.5 0.5 0.5", Problem.UNKNOWN_CLASS),
        ("-1 0.5 0.5 0.5 0.5", Problem.UNKNOWN_CLASS),
        ("1 0.9 0.5 0.5 0.5", Problem.CLIPPED_BOX),
        ("1 0.5 0.5 0 0.5", Problem.DEGENERATE_BOX),
        ("0 0.2 0.2 0.1 0.1", Problem.DUPLICATE_BOX),
    ],
)
def test_a_malformed_line_is_counted_with_its_place(
    write: Callable[..., Path], line: str, problem: Problem
) -> None:
    report = read_yolo(write(f"0 0.2 0.2 0.1 0.1\n{line}\n"), "train").report
    assert report.counts[problem] == 1
    if problem in (Problem.MALFORMED_BOX, Problem.UNKNOWN_CLASS):
        assert "a.txt:2" in report.lines()[0]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\n", "names: expected a list"),
        ("names: [a]\n", "has no `train:`"),
        ("train: nowhere\nnames: [a]\n", "neither a folder nor a .txt list"),
        ("train: images\nnames: {0: a, 2: b}\n", "expected the numbers 0 to 1"),
        ("train: images\nnames: [a, b]\nnc: 3\n", "nc is 3, but names lists 2"),
        ("train: 3\nnames: [a]\n", "3 is neither a folder nor a .txt list"),
        ("train: {a: images}\nnames: [a]\n", "expected a folder or a .txt list"),
        ("train: images\nnames: [a, [b]]\n", "found .* for class 1"),
        ("train: images\nnames: [a, null]\n", "found None for class 1"),
        ("train: images\nnc: 2\n", "has `nc: '2'`, but no `names:`; add a list"),
        ("train: images\nnames: [a]\nnc: two\n", "nc is two, but names lists 1"),
        ("train: images\ntrain: other\nnames: [a]\n", "data.yaml:2: train: is set twice"),
        ("vall: images\nnames: [a]\n", "has no `train:`"),
        (
            "path: /content/set\ntrain: images\nnames: [a]\n",
            "here it is beside this file: without `path:`, write `train: images`",
        ),
        (
            "train: C:\\data\\set\\images\nnames: [a]\n",
            "here it is beside this file: write `train: images`",
        ),
        ("train: /content/nowhere\nnames: [a]\n", "the path is another machine's"),
        ("train: images\nnames: {0: a, b: c}\n", "expected the numbers 0 to 1"),
        ("train: images\nnames: {null: a, 1: c}\n", "expected the numbers 0 to 1"),
        ("train: images/a.txt\nnames: [a]\n", "1 x missing image"),
        ("train: [\n", "data.yaml:2: not YAML"),
        ("- 1\n", "data.yaml:1: expected lines of `key: value`"),
        ("", "expected `train:`"),
    ],
)
def test_a_wrong_data_yaml_is_refused(write: Callable[..., Path], yaml: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_yolo(write(yaml=yaml), "train")


def test_images_may_be_listed_in_a_file(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("images/a.png\nimages/missing.png\n")
    dataset = read_yolo(write(yaml="train: list.txt\nnames: [cat, dog]\n"), "train")
    assert len(dataset.records) == 1
    assert dataset.report.counts[Problem.MISSING_IMAGE] == 1
    assert dataset.report.bad_images == 0.5 * dataset.report.images


def test_only_the_last_images_folder_becomes_labels() -> None:
    assert label_path(Path("/images/set/images/a/b.jpg")) == Path("/images/set/labels/a/b.txt")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 30 20 10 10", "values in pixels; divide them by the image's width and height"),
        ("0 10 10 30 10 30 30", "values in pixels"),
        ("0 0.5 0.5 0.2 0.2 0.87", "6 values are a prediction with its confidence"),
        ("cat 0.5 0.5 0.2 0.2", "'cat' is no number"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5 is no whole number"),
    ],
)
def test_a_row_is_refused_for_what_it_is(
    write: Callable[..., Path], line: str, reason: str
) -> None:
    report = read_yolo(write(f"0 0.2 0.2 0.1 0.1\n{line}\n"), "train").report
    assert reason in report.examples[Problem.MALFORMED_BOX][0]


@pytest.mark.parametrize(
    "outline",
    ["0.25 0.25 0.75 0.5 0.5 0.75", "0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5"],
    ids=["polygon", "oriented box"],
)
def test_an_outline_becomes_its_bounding_box(write: Callable[..., Path], outline: str) -> None:
    dataset = read_yolo(write(f"1 {outline}\n"), "train")
    assert dataset.records[0].boxes.tolist() == [[15, 10, 45, 30]]
    assert dataset.report.counts == {Problem.POLYGON: 1}
    assert dataset.report.bad_boxes == 0


def test_keypoints_are_ignored_if_the_data_yaml_states_them(write: Callable[..., Path]) -> None:
    yaml = YAML + "kpt_shape: [2, 3]\n"
    dataset = read_yolo(write("1 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 2\n", yaml), "train")
    assert dataset.records[0].boxes.tolist() == [[15, 10, 45, 30]]
    assert dataset.report.counts == {Problem.KEYPOINTS: 1}


def test_labels_without_image_and_other_files_are_reported(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write()
    for name in ("labels/b.txt", "labels/classes.txt", "images/c.heic", "images/d.xyz"):
        (tmp_path / name).touch()
    for name in ("images/._a.png", "images/e.gif"):
        (tmp_path / name).write_bytes(b"GIF89a")
    report = read_yolo(path, "train").report
    assert report.images == 1
    assert report.counts == {Problem.UNUSED_LABELS: 1, Problem.UNKNOWN_FILE: 1}
    assert report.examples[Problem.UNUSED_LABELS] == [str(tmp_path / "labels" / "b.txt")]
    assert "images that are not read: 1 .heic, 1 .gif, such as" in report.warnings[0]


def test_labels_of_another_split_in_the_same_folder_are_not_reported(
    write: Callable[..., Path], tmp_path: Path, picture: Picture
) -> None:
    path = write(yaml="train: train.txt\nnames: [cat, dog]\n")
    picture("other.png")
    (tmp_path / "labels" / "other.txt").touch()
    (tmp_path / "train.txt").write_text("./images/a.png\n")
    assert read_yolo(path, "train").report.lines() == []
