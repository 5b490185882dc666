"""Checkpoints of the public YOLOv5: stand-ins for its pickled modules, written by a process without our package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from yolo.cli import main
from yolo.errors import WeightsError
from yolo.model.io.ultralytics import read_published
from yolo.model.io.weights import build_from_weights

STAND_IN = Path(__file__).parent / "stand_in"
NAMES = ["thing 0", "thing 1", "thing 2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    subprocess.run(
        [sys.executable, str(STAND_IN / "make.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": str(STAND_IN)},
        check=True,
        timeout=300,
    )
    return folder


@pytest.mark.parametrize(
    ("variant", "tensors", "pixels"), [("n", 349, 640), ("m", 481, 640), ("n6", 459, 1280)]
)
def test_an_imported_network_computes_what_the_published_one_did(
    checkpoints: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    variant: str,
    tensors: int,
    pixels: int,
) -> None:
    out = tmp_path / "new folder" / "imported.safetensors"
    assert main(["import", str(checkpoints / f"{variant}.pt"), str(out)]) == 0
    said = f"{out}: yolov5{variant}, 3 classes, {pixels} pixels, {tensors} tensors of "
    assert capsys.readouterr().out.startswith(said)
    expected = np.load(checkpoints / f"{variant}.npz")
    network, metadata = build_from_weights(out)
    with torch.no_grad():
        predictions = network.eval()(torch.from_numpy(expected["images"])).numpy()
    assert (
        expected["predictions"].std(axis=1).min() > 1e-3
    )  # not a constant that anything would equal
    np.testing.assert_allclose(predictions, expected["predictions"], rtol=1e-4, atol=1e-5)
    assert json.loads(metadata["class_names"]) == NAMES
    assert metadata["image_size"] == str(pixels)


def test_fp16_becomes_fp32_exactly(checkpoints: Path, tmp_path: Path) -> None:
    out = tmp_path / "imported.safetensors"
    assert main(["import", str(checkpoints / "n.pt"), str(out)]) == 0
    imported, expected = load_file(out), np.load(checkpoints / "n.npz")
    assert set(imported) == set(expected) - {"images", "predictions"}
    for name, tensor in imported.items():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert np.array_equal(tensor.numpy(), expected[name])


def test_imported_weights_detect(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, image = tmp_path / "imported.safetensors", tmp_path / "image.png"
    assert main(["import", str(checkpoints / "n.pt"), str(out)]) == 0
    cv2.imwrite(str(image), np.full((64, 96, 3), 114, np.uint8))
    arguments = ["--weights", str(out), "--out", str(tmp_path / "drawn"), "--confidence", "0.001"]
    assert main(["detect", str(image), *arguments]) == 0
    (entry,) = json.loads((tmp_path / "drawn" / "detections.json").read_text())
    assert {row["class"] for row in entry["detections"]} <= set(NAMES) and entry["detections"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("relu", r"model\.0\.act is a ReLU there, and a SiLU in YOLOv5"),
        ("eps", r"model\.3\.bn: eps is 1e-05, and 0\.001 in YOLOv5"),
        ("shortcut", r"model\.13\.m\.0: add is True, and False in YOLOv5"),
        ("fused", r"BatchNorm is fused into its convolutions"),
        ("wider", r"looks like yolov5n of 3 classes, but is not: model\.7\.conv\.weight \(\(300, "),
        ("too_few_names", r"names 2 classes for a network of 3"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(
    checkpoints: Path, name: str, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        read_published(checkpoints / f"{name}.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a list without a network"),
        ({"epoch": 1}, "without a network as `ema` or `model`"),
        ({"model": {"layer.weight": torch.zeros(3)}}, "1 tensors that are no YOLOv5 detector"),
        ({"model": {"model.0.conv.weight": 3}}, "BatchNorm is fused"),
        ({"model": {}}, "without a network|no YOLOv5"),
    ],
)
def test_another_file_of_torch_is_named_for_what_it_is(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        read_published(tmp_path / "x.pt")


def test_the_file_to_write_is_checked(
    checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(checkpoints / "n.pt"), "out.pt"]) == 2
    assert capsys.readouterr().err == "out.pt: expected the name of a .safetensors file to write\n"
