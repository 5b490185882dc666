from pathlib import Path

import pytest

from yolo.data.image.files import find_images, folder_content


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_dot_files_and_what_zip_programs_add_are_no_images(tmp_path: Path) -> None:
    put(tmp_path, "b.JPG", "a/c.png", "._b.JPG", ".cache/d.jpg", "__MACOSX/e.jpg", "a/._c.png")
    assert find_images(tmp_path) == [tmp_path / "a/c.png", tmp_path / "b.JPG"]


def test_a_hidden_folder_that_is_named_itself_is_walked(tmp_path: Path) -> None:
    put(tmp_path, ".data/a.jpg")
    assert find_images(tmp_path / ".data") == [tmp_path / ".data/a.jpg"]


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/a.jpg", "set/b.jpg")
    (tmp_path / "set" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "self").symlink_to(tmp_path / "set")
    assert find_images(tmp_path / "set") == [
        tmp_path / "set/b.jpg",
        tmp_path / "set/more/a.jpg",
    ]


def test_an_image_keeps_its_own_path_if_a_link_leads_to_its_folder_too(tmp_path: Path) -> None:
    put(tmp_path, "z/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "z")
    assert find_images(tmp_path) == [tmp_path / "z/a.jpg"]


def test_files_are_told_apart_by_kind(tmp_path: Path) -> None:
    put(tmp_path, "a.jfif", "b.HEIC", "c.gif", "d.txt", "e.xyz", "f", "g.yaml", "h.jp2")
    content = folder_content(tmp_path)
    assert [path.name for path in content.images] == ["a.jfif", "h.jp2"]
    assert [path.name for path in content.unread] == ["b.HEIC", "c.gif"]
    assert [path.name for path in content.unknown] == ["e.xyz", "f"]
    assert [path.name for path in content.annotations] == ["d.txt"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_images(tmp_path / "nowhere")
