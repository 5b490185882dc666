from collections.abc import Callable
from pathlib import Path

import pytest

from yolo.data.dataset import Problem
from yolo.data.yolo_txt import label_path, read_yolo
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
        ("train: 3\nnames: [a]\n", "expected a folder or a .txt list"),
        ("train: images\nnames: {0: a, b: c}\n", "expected the numbers 0 to 1"),
        ("train: images\nnames: {null: a, 1: c}\n", "expected the numbers 0 to 1"),
        ("train: images/a.txt\nnames: [a]\n", "images/a.txt: cannot be read"),
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
