import shutil
from pathlib import Path

import pytest

from tests.data.shards.sharded import loader_for, opened
from yolo.errors import DataError


@pytest.mark.parametrize(
    ("damage", "workers"),
    [("cut off", 0), ("gone", 0), ("overwritten", 0), ("image", 0), ("gone", 1)],
)
def test_a_damaged_shard_is_named(written: Path, tmp_path: Path, workers: int, damage: str) -> None:
    shutil.copytree(written, tmp_path / "copy")
    path = tmp_path / "copy" / "train" / "train-000003.tar"
    content = path.read_bytes()
    start = content.index(b"\xff\xd8")
    changed = {
        "cut off": content[: len(content) // 3],
        "overwritten": b"\1" * len(content),
        "image": content[: start + 500] + bytes(2500) + content[start + 3000 :],
    }
    path.unlink()
    if damage in changed:
        path.write_bytes(changed[damage])
    with pytest.raises(DataError, match=r"^[^\n]*train-000003.tar[^\n]*$") as raised:
        list(loader_for(tmp_path / "copy", f"data.workers={workers}").epoch(0))
    assert "object at" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.json", b"{", "index.json: is no index of shards: it: "),
        ("index.json", b'{"version": 2}', "index.json: is no index of shards: version: "),
        ("index.npz", b"PK", "index.npz: cannot be read: "),
    ],
)
def test_a_damaged_index_is_named(
    written: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    shutil.copytree(written, tmp_path / "copy")
    (tmp_path / "copy/train" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "copy")


def test_an_index_of_other_shards_is_refused(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "copy")
    shutil.copy(written / "val/index.npz", tmp_path / "copy/train/index.npz")
    with pytest.raises(DataError, match="does not belong to the index.json beside it"):
        opened(tmp_path / "copy")
