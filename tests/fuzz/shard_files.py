"""Shards: tar files and what tells of them, damaged or made to do harm."""

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.images import HEIGHT, WIDTH, sound
from tests.fuzz.mutations import damaged, odd_files

SAMPLES = 6
INDEX = {
    **{"version": 1, "split": "train", "class_names": ["cat", "dog"], "category_ids": [3, 7]},
    **{"boxes": SAMPLES, "fingerprint": "x", "seed": 0},
}
ODD_INDEX: tuple[dict[str, Any], ...] = (
    *({"version": 2}, {"version": None}, {"class_names": []}, {"class_names": [1]}, {"boxes": -1}),
    *(
        {"shards": []},
        {"shards": [{}]},
        {"boxes": 10**30},
        {"more": 1},
        {"seed": -1},
        {"split": "x"},
    ),
    *(
        {"shards": [{"name": name, "samples": 6, "bytes": 99999}]}
        for name in (
            "../x.tar",
            "/etc/passwd",
            "a b.tar",
            "$(touch canary)",
            "a;b",
            "",
            "..",
            "x\n",
        )
    ),
    *(
        {"shards": [{"name": "train-000000.tar", "samples": count, "bytes": 99999}]}
        for count in (0, -1, 5, 7, 10**9, 10**30, "6", None, 1.5)
    ),
    {"shards": [{"name": "train-000000.tar", "samples": 6, "bytes": 1}]},
)
ODD_SAMPLE: tuple[dict[str, Any], ...] = (
    *({"position": value} for value in ("../../x", -1, 6, 10**30, 1.5, None, [])),
    *({"classes": value} for value in ([2], [-1], [10**30], [0, 1], [], ["cat"], None, [[0]])),
    *({"boxes": value} for value in ([[0, 0, 1]], [[0, 0, 1e300, 9]], [[float("nan")] * 4], "x")),
    *({"width": value} for value in (0, -5, "60", 1.5, 10**30, None)),
    *({"file_name": value} for value in (None, 3, "a\0.jpg", "x" * 300, "../../../canary.jpg")),
    *({"image_id": value} for value in (None, "1", 1.5)),
    *({"areas": []}, {"areas": [float("inf")]}, {"crowd": []}),
)


def shard_files(folder: Path, random: Random) -> Iterator[tuple[str, Path]]:
    """Yields what is wrong, and a folder whose `train` is such a split."""
    train = folder / "train"
    tar = _write(train)
    index, arrays = (train / "index.json").read_bytes(), (train / "index.npz").read_bytes()
    for name, content in damaged(tar, random, 28):
        yield f"a shard, {name}", _with(folder, "train-000000.tar", content)
    for name, content in damaged(index, random, 14):
        yield f"its index, {name}", _with(folder, "index.json", content)
    for name, content in damaged(arrays, random, 14):
        yield f"its arrays, {name}", _with(folder, "index.npz", content)
    for change in ODD_INDEX:
        content = json.dumps(json.loads(index) | change).encode()
        yield f"an index with {change!r:.60}", _with(folder, "index.json", content)
    for change in ODD_SAMPLE:
        _write(train, change)
        yield f"a sample with {change!r:.60}", folder
    for name, content in _odd_arrays():
        yield name, _with(folder, "index.npz", content)
    for name, content in _odd_tars(tar):
        yield name, _with(folder, "train-000000.tar", content)
    for file in ("train-000000.tar", "index.json", "index.npz"):
        _write(train)
        (train / file).unlink()
        for name in odd_files(train / file):
            yield f"{name} for {file}", folder


def _with(folder: Path, name: str, content: bytes) -> Path:
    _write(folder / "train")
    (folder / "train" / name).write_bytes(content)
    return folder


def _write(train: Path, change: dict[str, Any] | None = None) -> bytes:
    """A sound split of one shard, but for what is changed in one of its samples."""
    shutil.rmtree(train, ignore_errors=True)
    train.mkdir()
    stream, offsets = io.BytesIO(), [0]
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(SAMPLES):
            sample = {
                **{"image_id": number, "file_name": f"{number}.jpg", "position": number},
                **{"width": WIDTH, "height": HEIGHT, "boxes": [[1, 2, 20, 30]], "classes": [1]},
                **{"crowd": [False], "areas": [9.5]},
            }
            if change and number == 2:
                sample |= change
            for suffix, content in (("jpg", sound("JPEG")), ("json", json.dumps(sample).encode())):
                entry = tarfile.TarInfo(f"{number:012d}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            offsets.append(tar.offset)
    content = stream.getvalue()
    (train / "train-000000.tar").write_bytes(content)
    shards = [{"name": "train-000000.tar", "samples": SAMPLES, "bytes": len(content)}]
    (train / "index.json").write_text(json.dumps(INDEX | {"shards": shards}))
    np.savez_compressed(train / "index.npz", offsets=np.array(offsets), shapes=np.ones((3, 2)))
    return content


def _odd_arrays() -> Iterator[tuple[str, bytes]]:
    right = np.arange(SAMPLES + 1) * 5
    for name, offsets, shapes in (
        ("offsets of words", np.array(["a"] * (SAMPLES + 1)), np.ones((3, 2))),
        ("offsets of fractions", right * 0.5, np.ones((3, 2))),
        ("offsets that fall", right[::-1], np.ones((3, 2))),
        ("offsets beyond the shard", right * 10**9, np.ones((3, 2))),
        ("negative offsets", right - 9, np.ones((3, 2))),
        ("offsets that are no list", np.array(5), np.ones((3, 2))),
        ("shapes of words", right, np.array([["a", "b"]])),
        ("shapes that are no numbers", right, np.full((3, 2), np.nan)),
        ("shapes of threes", right, np.ones((3, 3))),
        ("offsets with a pickle", np.array([_Canary()], dtype=object), np.ones((3, 2))),
    ):
        stream = io.BytesIO()
        np.savez(stream, offsets=offsets, shapes=shapes)
        yield name, stream.getvalue()
    header = b"\x93NUMPY\x01\0v\0{'descr': '<i8', 'fortran_order': False, 'shape': (%d,), }"
    for name, content in (
        ("arrays that say that they are large", header % 10**13 + b" " * 40 + b"\n"),
        ("arrays that unpack to a GB", bytes(10**9)),
    ):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("offsets.npy", content)
        yield name, stream.getvalue()


class _Canary:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch canary",)


def _odd_tars(tar: bytes) -> Iterator[tuple[str, bytes]]:
    import bz2
    import gzip

    yield "a shard compressed by gzip", gzip.compress(tar)
    yield "a shard compressed by bzip2", bz2.compress(tar)
    yield "a shard of 1 GB of zeros by gzip", gzip.compress(bytes(10**9), 1)
    for name, kind in (
        ("a link", tarfile.SYMTYPE),
        ("a device", tarfile.CHRTYPE),
        ("a FIFO", tarfile.FIFOTYPE),
    ):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            entry = tarfile.TarInfo("../../canary")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        yield f"a shard that begins with {name}", stream.getvalue() + tar
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        entry = tarfile.TarInfo("000000000000.jpg")
        entry.size = 10**12
        archive.addfile(entry)
    yield "a shard whose file says that it has a TB", stream.getvalue() + tar
    yield "a shard of nothing", b""
    yield "a shard of zeros", bytes(len(tar))
