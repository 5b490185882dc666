"""Files are told by their content, whatever their name."""

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import REPOSITORY
from yolo.cli import main
from yolo.errors import WeightsError
from yolo.model.io.weights import load_detector, read_weights
from yolo.model.io.weights_file import FileKind, kind_of, read_header


def test_the_two_kinds_that_weights_are_read_from(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "a.pt", {"variant": "n"})
    torch.save({"a": torch.zeros(2)}, tmp_path / "b.safetensors")
    assert kind_of(tmp_path / "a.pt") is FileKind.SAFETENSORS
    assert kind_of(tmp_path / "b.safetensors") is FileKind.CHECKPOINT
    assert read_header(tmp_path / "a.pt") == ({"a": (2, 3)}, {"variant": "n"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; download or copy it again"),
        (b"\x08\x08\x12\x07pytorch", "is an ONNX model, .* it was exported from"),
        (b"\x08\x0a\x3a\x80\x01", "is an ONNX model"),
        (b"\x08\x01\x12\x80", "is a TensorFlow model"),
        (b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model"),
        (b"\x89HDF\r\n\x1a\nxxxxx", "is an HDF5 file"),
        (b"\n <!DOCTYPE html><html>", "is a web page, not weights; download"),
        (b"<?xml version='1.0'?>", "is an XML file, as OpenVINO"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "pointer of Git LFS.*; run `git lfs pull`",
        ),
        (b"\x80\x04}\x94.", "is a plain pickle, not a file of torch.save"),
        (b"\0\0\0\0\2\0\0\0\0\0\0\0\0\xc8", "are weights of Darknet"),
        (b"PK\x03\x04" + bytes(100), "not a valid checkpoint .*end is damaged or missing"),
        (b"some text", "neither safetensors nor a file of torch.save"),
        (b"\x08", "neither safetensors nor a file of torch.save"),
    ],
)
def test_another_kind_of_file_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"x\.safetensors: .*{message}") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


class Harm:
    """Pickled as a program that writes a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("open('stowed', 'w')",)


@pytest.mark.parametrize("command", ["detect", "eval", "export", "check", "import"])
def test_no_command_runs_what_is_pickled_in_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    torch.save({"model": Harm()}, tmp_path / "x.pt")
    monkeypatch.chdir(tmp_path)
    arguments = {
        "detect": ["--weights", "x.pt", "."],
        "eval": ["--weights", "x.pt", "--data", "data.json"],
        "export": ["x.pt", "out.onnx", "--format", "onnx"],
        "check": [str(REPOSITORY / "recipes/demo.yaml"), "model.weights=x.pt"],
        "import": ["x.pt", "x.safetensors"],
    }
    assert main([command, *arguments[command]]) == 2
    assert "__builtin__.exec, which is not among" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_the_header_of_any_type_of_numbers_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, tmp_path / "a")
    assert read_header(tmp_path / "a") == ({"a": (2, 3)}, {})


def test_a_torchscript_file_is_called_one(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), str(tmp_path / "x.pt"))
    with pytest.raises(WeightsError, match="is a TorchScript file: a traced program"):
        load_detector(tmp_path / "x.pt")


def test_torchs_old_format_is_named(tmp_path: Path) -> None:
    torch.save({"model": 1}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"torch's format of before release 1\.6"):
        read_weights(tmp_path / "x.pt")


def test_another_zip_archive_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("images/1.txt", "x")
    with pytest.raises(WeightsError, match="is a zip archive, but no file of torch.save"):
        read_weights(tmp_path / "x.pt")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder; give the path of a weights file in it"):
        kind_of(tmp_path)
    with pytest.raises(WeightsError, match=r"gone: no such file; expected a \.safetensors file"):
        kind_of(tmp_path / "gone")
    with pytest.raises(WeightsError, match="is a pipe or a device, not a file"):
        kind_of(Path("/dev/zero"))
