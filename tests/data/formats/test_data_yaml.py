from collections.abc import Callable
from pathlib import Path

import pytest

from yolo.data.formats.data_yaml import DataYaml
from yolo.errors import DataError

Write = Callable[..., DataYaml]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a data.yaml into `set/`, beside the folder `set/train/images` with one image; as bytes if given so."""
    (tmp_path / "set" / "train" / "images").mkdir(parents=True)
    (tmp_path / "set" / "train" / "images" / "a.jpg").touch()

    def write_yaml(text: str | bytes) -> DataYaml:
        content = text.encode() if isinstance(text, str) else text
        (tmp_path / "set" / "data.yaml").write_bytes(content)
        return DataYaml.read(tmp_path / "set" / "data.yaml")

    return write_yaml


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [0, 1]", ("0", "1")),
        ("names: [cat, 007, on, 1.50, 2024-01-01]", ("cat", "007", "on", "1.50", "2024-01-01")),
        ("names: {1: b, 0: a}", ("a", "b")),
        ("names: {'0': a, '1': 5}", ("a", "5")),
        ("names:\n\t0: a\n\t1: b", ("a", "b")),
        ("nc: '2'\nnames: [a, b]", ("a", "b")),
        ("nc: 2\nnc: 2\nnames: [a, b]", ("a", "b")),
        ("x: &n [a, b]\nnames: *n", ("a", "b")),
        ("base: &b {nc: 2}\n<<: *b\nnames: [a, b]", ("a", "b")),
        ("names: !!python/tuple [a, b]", ("a", "b")),
        (b"\xef\xbb\xbfnames: [a]\r\n", ("a",)),
        (
            "names: [a]\nroboflow: {version: 3, url: https://x}\ndate: 2024-01-01\ndownload: |\n  import os",
            ("a",),
        ),
    ],
)
def test_names_are_read_as_exporting_tools_write_them(
    write: Write, text: str | bytes, names: tuple[str, ...]
) -> None:
    assert write(text).class_names == names


@pytest.mark.parametrize(
    "lines",
    [
        "train: train/images",
        "train: ../train/images",
        "train: ..\\train\\images",
        "train: .\\train\\images\\",
        "train: [train/images]",
        "path: ../set\ntrain: train/images",
        "path: .\ntrain: train/images",
        "path: set\ntrain: train/images",
        "path: {here}\ntrain: train/images",
        "train: {here}/train/images",
        "train: list.txt",
        "path: ..\ntrain: set/list.txt",
        "train: lists/windows.txt",
        "train: lists/of_the_root.txt",
    ],
)
def test_paths_are_found_as_exporting_tools_write_them(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "set"
    (folder / "lists").mkdir()
    (folder / "list.txt").write_text("./train/images/a.jpg\n")
    (folder / "lists" / "windows.txt").write_text("..\\train\\images\\a.jpg\r\n")
    (folder / "lists" / "of_the_root.txt").write_text("train/images/a.jpg\n")
    (image,) = write(lines.replace("{here}", str(folder))).images("train")
    assert image.samefile(folder / "train" / "images" / "a.jpg")


def test_a_path_that_is_there_is_not_changed(write: Write, tmp_path: Path) -> None:
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "images" / "b.jpg").touch()
    (image,) = write("train: ../train/images").images("train")
    assert image.name == "b.jpg"


def test_a_list_may_name_files_that_are_not_utf8(write: Write, tmp_path: Path) -> None:
    (tmp_path / "set" / "list.txt").write_bytes(b"train/images/caf\xe9.jpg\n")
    (image,) = write("train: list.txt").images("train")
    assert bytes(image).endswith(b"caf\xe9.jpg")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{one}: &{one} [{', '.join([f'*{other}'] * 10)}]\n"
            for other, one in zip("abcdef", "bcdefg", strict=True)
        ),
        "a: &a [*a]",
        "a: " + "[" * 30 + "]" * 30,
    ],
    ids=["a billion laughs", "a list in itself", "nested lists"],
)
def test_what_expands_without_end_is_refused(write: Write, text: str) -> None:
    with pytest.raises(DataError, match="data.yaml:1: nested deeper than|more than 100000 values"):
        write(text)


def test_a_misspelt_split_is_suggested(write: Write) -> None:
    with pytest.raises(DataError, match="has no `val:`.*Did you mean 'valid'"):
        write("valid: x\ntrain: x\nnames: [a]").images("val")


def test_a_folder_in_place_of_the_data_yaml_is_named(write: Write, tmp_path: Path) -> None:
    write("names: [a]")
    with pytest.raises(DataError, match="name the data.yaml in it"):
        DataYaml.read(tmp_path / "set")
