import os
from pathlib import Path

import pytest

from yolo.preflight.data_digest import content_of, digest_of_source
from yolo.preflight.host_info import ProbeRequest


def look(files: list[Path] | None = None, folders: list[Path] | None = None) -> ProbeRequest:
    return ProbeRequest(list(map(str, files or ())), list(map(str, folders or ())), [], 10)


def test_files_are_told_by_content_and_folders_by_number_and_size(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name, size in (("a.jpg", 10), ("deeper/b.jpg", 20)):
        (tmp_path / name).write_bytes(bytes(size))
    seen = content_of(look([tmp_path / "a.jpg", tmp_path / "none"], [tmp_path, tmp_path / "none"]))
    assert seen.files == {str(tmp_path): 2, str(tmp_path / "none"): -1}
    assert seen.sizes[str(tmp_path)] == 30
    digest = seen.digests[str(tmp_path / "a.jpg")]
    assert digest is not None and len(digest) == 64
    assert seen.digests[str(tmp_path / "none")] is None


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    images.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.jpg").write_bytes(b"12345")
    (images / "linked").symlink_to(elsewhere)
    (images / "back").symlink_to(images)
    seen = content_of(look(folders=[images]))
    assert (seen.files[str(images)], seen.sizes[str(images)]) == (1, 5)


def test_images_are_not_read(tmp_path: Path) -> None:
    """A terabyte of holes is looked at as quickly as anything."""
    with (tmp_path / "huge.jpg").open("wb") as file:
        os.truncate(file.fileno(), 2**40)
    assert content_of(look(folders=[tmp_path])).sizes[str(tmp_path)] == 2**40


@pytest.fixture
def yolo_data(tmp_path: Path) -> Path:
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "images/train/a.jpg").write_bytes(bytes(100))
    (tmp_path / "images/train/b.jpg").write_bytes(bytes(100))
    (tmp_path / "labels/train/a.txt").write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [x]\n")
    return tmp_path / "data.yaml"


def test_a_yolo_split_is_its_images_and_labels(yolo_data: Path) -> None:
    seen = content_of(ProbeRequest([], [], [(str(yolo_data), "train")], 10))
    place = f"{yolo_data} (train)"
    assert (seen.files[place], seen.sizes[place], seen.problem) == (3, 214, "")


def test_a_split_that_is_not_there_is_told(yolo_data: Path) -> None:
    seen = content_of(ProbeRequest([], [], [(str(yolo_data), "val")], 10))
    assert seen.files[f"{yolo_data} (val)"] == -1
    assert "has no `val:`" in seen.problem


def test_source_is_told_apart_by_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "notes.txt").write_text("not a program")
    before = digest_of_source(tmp_path)
    (tmp_path / "notes.txt").write_text("still none")
    assert digest_of_source(tmp_path) == before
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert digest_of_source(tmp_path) != before
