"""Tell by a file's content which kind of weights it holds, and open a safetensors file. Never imports torch."""

import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import safetensors

from yolo.architecture import Shape
from yolo.errors import WeightsError
from yolo.recipe.load.safe_read import open_regular

HEAD_BYTES = 512
"""Enough to tell a kind of file by."""
OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""Start of torch's files before release 1.6."""
EXPECTED = "expected a .safetensors file, or a checkpoint of the public YOLOv5 (*.pt)"
UNEXPORTED = "give the weights that it was exported from (*.pt or *.safetensors)"
AGAIN = "download or copy it again"
ONNX_FIELDS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72")
"""What can follow the version, the first field of an ONNX model."""
BEGINNINGS = (
    (
        OLD_FORMAT,
        "is in torch's format of before release 1.6",
        "if you trust it, load it with torch and save it again",
    ),
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file, as Keras and MATLAB write them, not weights of torch",
        EXPECTED,
    ),
    (b"\x08\x01\x12", "is a TensorFlow model", UNEXPORTED),
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS, not the file itself",
        "run `git lfs pull`",
    ),
    (b"<!doctype html", "is a web page, not weights", AGAIN),
    (b"<html", "is a web page, not weights", AGAIN),
    (b"<?xml", "is an XML file, as OpenVINO writes them, not weights", UNEXPORTED),
    (b"\x80", "is a plain pickle, not a file of torch.save", EXPECTED),
    *(
        (bytes((0, 0, 0, 0, minor, 0, 0, 0)), "are weights of Darknet", EXPECTED)
        for minor in (1, 2)
    ),
)
"""How a file begins (markup in lower case), what it is, and what to do."""


class FileKind(StrEnum):
    """Files that weights are read from."""

    SAFETENSORS = "safetensors"
    CHECKPOINT = "checkpoint"
    """Of torch.save: a zip archive with a pickle."""


def kind_of(path: Path) -> FileKind:
    """The kind of a weights file, whatever its suffix. WeightsError says what any other file is, and what to do."""
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; give the path of a weights file in it")
    try:
        with open_regular(path) as stream:
            head = stream.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; {EXPECTED}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    if head.startswith(b"PK\x03\x04"):
        found = _unusable_zip(path)
        if found is None:
            return FileKind.CHECKPOINT
    elif head[8:9] == b"{":
        return FileKind.SAFETENSORS
    else:
        found = _unusable(head)
    raise WeightsError(f"{path}: {found}")


def _unusable_zip(path: Path) -> str | None:
    """None for a file of torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a damaged archive can raise any kind of error
        return f"not a valid checkpoint (a zip archive whose end is damaged or missing: {error}); {AGAIN}"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return (
            f"is a TorchScript file: a traced program, from which no weights are read; {UNEXPORTED}"
        )
    if any(name.endswith("/data.pkl") for name in names):
        return None
    return f"is a zip archive, but no file of torch.save; {EXPECTED}"


def _unusable(head: bytes) -> str:
    if not head:
        return f"is empty; {AGAIN}"
    if len(head) > 2 and head[0] == 8 and 3 <= head[1] < 32 and head[2] in ONNX_FIELDS:
        return f"is an ONNX model, from which no weights are read; {UNEXPORTED}"
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model; {UNEXPORTED}"
    start = head.lstrip().lower() if head.lstrip()[:1] == b"<" else head
    for beginning, kind, advice in BEGINNINGS:
        if start.startswith(beginning):
            return f"{kind}; {advice}"
    return f"is no file of weights: neither safetensors nor a file of torch.save; {EXPECTED}"


@contextmanager
def open_safetensors(path: Path, framework: str) -> Iterator[Any]:
    """An open file of `safetensors`; with the framework `np`, torch is not imported. WeightsError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework=framework) as file:
            yield file
    except (OSError, ValueError, KeyError, AttributeError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path}: not a valid safetensors file ({error}); copy it again, or convert it to safetensors"
        ) from error


def read_header(path: Path) -> tuple[dict[str, Shape], dict[str, str]]:
    """The shapes of a safetensors file's tensors by name, and its metadata. WeightsError if it is damaged."""
    with open_safetensors(path, "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a dict
        return shapes, dict(file.metadata() or {})
