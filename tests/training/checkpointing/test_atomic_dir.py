"""Folders that are whole or not there; no torch."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from yolo.training.checkpointing.atomic_dir import (
    MANIFEST,
    commit,
    digest_of,
    part_of,
    quarantine,
    remove,
    remove_unfinished,
    room_for,
    verify,
    write_synced,
)


def written(folder: Path, content: bytes = b"weights" * 100) -> Path:
    part = part_of(folder)
    part.mkdir(parents=True)
    write_synced(part / "a.bin", content)
    write_synced(part / "b.json", b"{}")
    commit(part, folder, {name: digest_of(part / name) for name in ("a.bin", "b.json")})
    return folder


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda f: os.truncate(f / "a.bin", 10), "a.bin has 10 bytes, and 700 were"),
    "altered": (lambda f: flip_a_bit(f / "a.bin"), "a.bin was altered"),
    "missing": (lambda f: (f / "b.json").unlink(), "b.json is missing"),
    "a link": (
        lambda f: ((f / "a.bin").rename(f / "c"), (f / "a.bin").symlink_to("c")),
        "a.bin is missing",
    ),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "cannot be read"),
    "torn manifest": (lambda f: os.truncate(f / MANIFEST, 20), "cannot be read"),
    "other manifest": (lambda f: (f / MANIFEST).write_text('{"a.bin": 1}'), "cannot be read"),
    "manifest that leads out": (
        lambda f: (f / MANIFEST).write_text(json.dumps({"../a.bin": {}})),
        "is missing",
    ),
}


def test_what_was_published_is_what_was_written(tmp_path: Path) -> None:
    folder = written(tmp_path / "one")
    assert verify(folder) is None
    assert not part_of(folder).exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    folder = written(tmp_path / "one")
    do, said = DAMAGES[damage]
    do(folder)
    wrong = verify(folder)
    assert wrong is not None and said in wrong


def test_a_folder_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    written(tmp_path / "one", b"old")
    folder = written(tmp_path / "one", b"new")
    assert (folder / "a.bin").read_bytes() == b"new"
    assert verify(folder) is None


def test_what_a_killed_writer_left_goes_and_nothing_else(tmp_path: Path) -> None:
    folder = written(tmp_path / "one")
    part_of(tmp_path / "two").mkdir()
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_damaged_folder_is_set_aside_and_kept(tmp_path: Path) -> None:
    aside = quarantine(written(tmp_path / "one"))
    assert aside.name == "one.damaged" and (aside / "a.bin").exists()
    assert not (tmp_path / "one").exists()


def test_removed_folders_are_gone(tmp_path: Path) -> None:
    remove([written(tmp_path / "one"), written(tmp_path / "two")])
    assert list(tmp_path.iterdir()) == []


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    assert room_for(1000, tmp_path) is None
    lack = room_for(2**60, tmp_path)
    assert lack is not None and "MiB are needed" in lack
