"""Weights: safetensors with false metadata, and checkpoints that try to run a program."""

import io
import json
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file

from tests.fuzz.attempt import Ended
from tests.fuzz.case import Case, Oracle, Verdict
from tests.fuzz.mutations import damaged, odd_files
from yolo.model.io.export import Format, export_weights
from yolo.model.io.weights import save_weights
from yolo.model.network import YOLOv5

CLASSES = 2
METADATA = {"class_names": '["cat", "dog"]', "image_size": "64"}
ODD_METADATA: tuple[dict[str, str], ...] = (
    *({"variant": value} for value in ("", "xxl", "N", "../n", "n\0")),
    *(
        {"classes": value}
        for value in ("0", "-1", "1", "3", "999999999", "1e9", "9" * 30, "9" * 5000, "")
    ),
    *({"image_size": value} for value in ("0", "-64", "1000000000", "64.5", "", "9" * 5000)),
    *(
        {"class_names": value}
        for value in ("", "[]", '["cat"]', "3", "{", "null", "[" * 50_000, '["\\u0000", "\\ud800"]')
    ),
)


def weights_files(folder: Path, random: Random) -> Iterator[Case]:
    """Weights for `detect` and checkpoints for `import`."""
    image = folder / "image.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    torch.manual_seed(0)
    path, checkpoint = folder / "weights.safetensors", folder / "checkpoint.pt"
    save_weights(path, YOLOv5("n", CLASSES), METADATA)
    export_weights(path, checkpoint, Format.ULTRALYTICS, None, None)
    sound, published = path.read_bytes(), checkpoint.read_bytes()
    detect = ("detect", str(image), "--weights", str(path), "--out", "detected")
    turn = ("import", str(checkpoint), "imported.safetensors")
    shapes = _shapes(path)

    for name, content in _bad_safetensors(sound, random):
        path.write_bytes(content)
        yield Case(name, detect, str(path), _is_finite(path, shapes))
    path.unlink()
    for name in odd_files(path):
        yield Case(f"{name} for weights", detect, str(path))
    for name, content in _bad_checkpoints(published, random):
        checkpoint.write_bytes(content)
        yield Case(name, turn, str(checkpoint), _is_finite(Path("imported.safetensors"), shapes))
    checkpoint.unlink()
    for name in odd_files(checkpoint):
        yield Case(f"{name} for a checkpoint", turn, str(checkpoint))


def _shapes(path: Path) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in load_file(path).items()}


def _is_finite(path: Path, shapes: dict[str, torch.Size]) -> Oracle:
    """Finite numbers in the network's shapes are harmless; without a checksum, changed numbers cannot be detected."""

    def compare(ended: Ended) -> Verdict:
        tensors = load_file(path)
        assert {name: tensor.shape for name, tensor in tensors.items()} == shapes
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        return Verdict.HARMLESS

    return compare


def _bad_safetensors(sound: bytes, random: Random) -> Iterator[tuple[str, bytes]]:
    size = int.from_bytes(sound[:8], "little")
    head, rest = sound[: 8 + size], sound[8 + size :]
    for name, content in damaged(head, random, 21):
        yield f"a head with {name}", content + rest
    for number in range(4):
        yield f"cut off ({number})", sound[: random.randrange(len(sound))]
    for length in (0, 1, size - 1, size + 1, 10**8, 2**63, 2**64 - 1):
        yield f"a head of {length} bytes", struct.pack("<Q", length) + sound[8:]
    header = json.loads(head[8:])

    def with_header(changed: dict[str, Any]) -> bytes:
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + rest

    first = next(name for name in header if name != "__metadata__")
    entry = header[first]
    for change in (
        *({"shape": shape} for shape in ([10**12, 10**12], [-1], [2**63], [0], "x", [])),
        *({"data_offsets": ends} for ends in ([0, 2**62], [-1, 5], [5, 0], [0, 1], None, [])),
        *({"dtype": dtype} for dtype in ("F65", "BOOL", "I8", "C64", "F8_E4M3", None)),
    ):
        yield f"a tensor of {change}", with_header(header | {first: entry | change})
    for change in ODD_METADATA:
        metadata = header["__metadata__"] | change
        yield f"metadata {change!r:.50}", with_header(header | {"__metadata__": metadata})
    yield "no metadata", with_header({k: v for k, v in header.items() if k != "__metadata__"})
    yield (
        "a tensor of another name",
        with_header({("x" if k == first else k): v for k, v in header.items()}),
    )
    for number in (b"\xff\xff\xff\xff", b"\x00\x00\x80\x7f"):
        start = entry["data_offsets"][0]
        yield "a non-finite number", head + rest[:start] + number + rest[start + 4 :]
    yield "a pickle", pickle.dumps({"a": 1})


class _Canary:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.called


def _bad_checkpoints(published: bytes, random: Random) -> Iterator[tuple[str, bytes]]:
    yield from damaged(published, random, 14)
    for name, harm in (
        ("os.system", _Canary(os.system, "touch canary")),
        ("eval", _Canary(eval, "open('canary', 'w')")),
        ("exec", _Canary(exec, "open('canary', 'w')")),
        ("subprocess", _Canary(subprocess.Popen, "touch canary")),
        ("open", _Canary(open, "canary", "w")),
        ("an import", _Canary(__import__, "antigravity")),
    ):
        yield f"{name} in a pickle", _zipped(pickle.dumps({"model": harm}, 2))
        yield f"{name} in a pickle of the old format", pickle.dumps({"model": harm}, 2)
    deep = b"(" * 100_000 + b"t" * 100_000 + b"."
    for name, program in (
        ("numbers of 2^31", b"\x80\x02]r\xff\xff\xff\x7f."),
        ("bytes of 2^62", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"."),
        ("a text of 2^62", b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"."),
        ("a number of 2^31 digits", b"\x80\x02\x8b\xff\xff\xff\x7f."),
        ("a frame of 2^62", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"."),
        ("tuples nested 100,000 deep", b"\x80\x02" + deep),
        ("no end", b"\x80\x02]"),
        ("nothing", b""),
        ("a class for a network", pickle.dumps({"model": dict}, 2)),
        (
            "a dict without tensors",
            pickle.dumps({"model": {"model.0.conv.weight": 3, "model.0.bn.weight": "x"}}, 2),
        ),
        ("persistent references to nothing", b"\x80\x02U\x01xQ."),
    ):
        yield f"a pickle with {name}", _zipped(program)
    yield "a zip of nothing", _zipped(b"", folder=None)
    yield "two pickles", _zipped(b"\x80\x02N.", more={"other/data.pkl": b"\x80\x02N."})
    yield "a name that leads out", _zipped(b"\x80\x02N.", folder="../../canary")
    yield "1 GB of zeros, compressed", _zipped(bytes(10**9), kind=zipfile.ZIP_DEFLATED)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../canary"))
    yield "a tar that leads out", stream.getvalue()


def _zipped(
    program: bytes,
    folder: str | None = "archive",
    more: dict[str, bytes] | None = None,
    kind: int = zipfile.ZIP_STORED,
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        if folder is not None:
            archive.writestr(f"{folder}/data.pkl", program)
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return stream.getvalue()
