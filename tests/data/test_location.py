from collections.abc import Callable
from pathlib import Path

import pytest

from yolo.data.location import annotation_path, missing_files
from yolo.recipe import prepare
from yolo.recipe.schema.recipe import ResolvedData

Files = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    def write(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return write


def section(root: Path, *overrides: str) -> ResolvedData:
    return prepare("recipes/demo.yaml", [f"data.root={root}", *overrides], 1).resolved.recipe.data


def test_a_data_yaml_in_the_folder_is_suggested(files: Files) -> None:
    root = files("data.yaml")
    for line in missing_files(section(root)):
        assert line.endswith(
            "no such file; for the YOLO format set data.format=yolo data.train=data.yaml data.val=data.yaml"
        )
    assert not list(
        missing_files(
            section(root, "data.format=yolo", "data.train=data.yaml", "data.val=data.yaml")
        )
    )


def test_pascal_vocs_lists_are_suggested(files: Files) -> None:
    lines = list(missing_files(section(files("ImageSets/Main/train.txt"))))
    assert lines[0].endswith("for Pascal VOC set data.format=voc data.train=train data.val=val")


def test_a_folder_of_images_is_no_data_yaml(files: Files) -> None:
    root = files("images/train/a.jpg")
    first, _ = missing_files(section(root, "data.format=yolo", "data.train=images/train"))
    assert first == (
        f"data.train: {root}/images/train: is a folder, not a file; name a data.yaml, with `train:`, `val:` and `names:`"
    )


def test_the_root_may_be_the_data_yaml(files: Files) -> None:
    path = files("data.yaml") / "data.yaml"
    data = section(path, "data.format=yolo")
    assert list(missing_files(data)) == []
    assert annotation_path(data, "train") == annotation_path(data, "val") == path
    (line,) = missing_files(section(path))
    assert line == f"data.root: {path}: is a file; set data.format=yolo"
