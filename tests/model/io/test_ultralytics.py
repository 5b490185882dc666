"""Checkpoints of the public YOLOv5: stand-ins for its pickled modules, written by a process without our package."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from yolo.cli import main
from yolo.errors import WeightsError
from yolo.model import YOLOv5
from yolo.model.io.ultralytics import read_published
from yolo.model.io.weights import build_from_weights, load_detector, load_weights

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
    ("variant", "tensors", "pixels"), [("n", 349, 640), ("m", 481, 512), ("n6", 459, 1280)]
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
        ("fused", r"BatchNorm is fused into 57 of its 57 convolutions"),
        ("partly_fused", r"BatchNorm is fused into 1 of its 57 convolutions"),
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
        ([1, 2], "a list without a network or state dict"),
        (
            {"epoch": 1},
            "a dict without a network or state dict, itself or as ema, model, state_dict",
        ),
        ({"model": {"layer.weight": torch.zeros(3)}}, "1 tensors that are no YOLOv5 detector"),
        ({"layer.weight": torch.zeros(3)}, "1 tensors that are no YOLOv5 detector"),
        ({"model": {"model.0.conv.weight": 3}}, "without a network"),
        ({"model": {}}, "without a network"),
    ],
)
def test_another_file_of_torch_is_named_for_what_it_is(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        read_published(tmp_path / "x.pt")


@pytest.fixture(scope="module")
def network() -> YOLOv5:
    torch.manual_seed(0)
    return YOLOv5("n", len(NAMES))


def renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name.removeprefix("model."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["model.", "module.model.", "model.model.", "module.", ""])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "ema"])
def test_a_state_dict_is_read_under_each_name_it_may_have(
    network: YOLOv5, tmp_path: Path, key: str | None, prefix: str
) -> None:
    state = renamed(network.state_dict(), prefix)
    content = state | {"names": NAMES} if key is None else {key: state, "names": NAMES}
    torch.save(content, tmp_path / "x.pt")
    read, metadata = read_published(tmp_path / "x.pt")
    assert json.loads(metadata["class_names"]) == NAMES
    assert all(map(torch.equal, read.state_dict().values(), network.state_dict().values()))


@pytest.mark.parametrize(
    ("names", "expected"),
    [({0: "a", 1: "b", 2: "c"}, ["a", "b", "c"]), ([0, 1.5, True], ["0", "1.5", "True"])],
)
def test_names_are_texts_or_numbers(
    network: YOLOv5, tmp_path: Path, names: object, expected: list[str]
) -> None:
    torch.save({"model": network.state_dict(), "names": names}, tmp_path / "x.pt")
    assert json.loads(read_published(tmp_path / "x.pt")[1]["class_names"]) == expected


@pytest.mark.parametrize(
    "names", ["abc", [None, "b", "c"], {1: "a", 2: "b", 3: "c"}, ["a\0", "b", "c"]]
)
def test_names_that_cannot_be_are_refused(network: YOLOv5, tmp_path: Path, names: object) -> None:
    torch.save({"model": network.state_dict(), "names": names}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"its `names` are .*; expected one text per class"):
        read_published(tmp_path / "x.pt")


def test_a_state_dict_in_fp16_is_read_exactly(network: YOLOv5, tmp_path: Path) -> None:
    halved = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    torch.save({"state_dict": halved, "names": dict(enumerate(NAMES))}, tmp_path / "x.pt")
    read, _ = read_published(tmp_path / "x.pt")
    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor, halved[name].to(tensor.dtype))


def test_a_network_pickled_alone_is_read(checkpoints: Path, tmp_path: Path) -> None:
    """And `ema` without tensors is passed over."""
    read, _ = read_published(checkpoints / "alone.pt")
    expected = np.load(checkpoints / "n.npz")
    assert read.variant == "n" and set(read.state_dict()) == set(expected) - {
        "images",
        "predictions",
    }


def test_an_expanded_tensor_among_the_attributes_is_no_damage(checkpoints: Path) -> None:
    """The public head holds its grids so, after it was used."""
    read, _ = read_published(checkpoints / "expanded.pt")
    assert read.variant == "n"


def test_a_state_dict_without_class_names_says_how_to_give_them(
    network: YOLOv5, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    torch.save(network.state_dict(), path)
    with pytest.raises(WeightsError) as caught:
        read_published(path)
    assert str(caught.value).startswith(
        f"{path}: weights of yolov5n with 3 classes, without their names (`names`); give them in"
        f" order: yolo import {path} {tmp_path}/x.safetensors --classes A,B,..., or with a file"
    )


@pytest.mark.parametrize(
    ("written", "classes"),
    [
        ("", "a cup, b,c"),
        ("a cup\n\nb\nc\n", "{folder}/names.txt"),
        ("names: {{0: a cup, 1: b, 2: c}}\ntrain: x\nval: x\n", "{folder}/data.yaml"),
    ],
)
def test_class_names_are_given_on_the_command_line_or_in_a_file(
    network: YOLOv5, tmp_path: Path, written: str, classes: str
) -> None:
    given = classes.format(folder=tmp_path)
    if written:
        Path(given).write_text(written.format())
    torch.save(network.state_dict(), tmp_path / "x.pt")
    out = tmp_path / "x.safetensors"
    assert main(["import", str(tmp_path / "x.pt"), str(out), "--classes", given]) == 0
    assert load_detector(out).class_names == ("a cup", "b", "c")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("a,b", "names 2 classes for a network of 3"),
        ("a,,c", "--classes a,,c: class 1 has no name"),
        ("gone.txt", "gone.txt: No such file"),
        ("gone.yaml", "gone.yaml: no such file"),
    ],
)
def test_class_names_that_cannot_be_are_one_line(
    network: YOLOv5,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    classes: str,
    message: str,
) -> None:
    torch.save(network.state_dict(), tmp_path / "x.pt")
    arguments = [str(tmp_path / "x.pt"), str(tmp_path / "x.safetensors"), "--classes", classes]
    assert main(["import", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("count", [1, 57])
def test_a_fused_state_dict_says_so(network: YOLOv5, tmp_path: Path, count: int) -> None:
    state = dict(network.state_dict())
    for name in [name for name in state if name.endswith(".bn.weight")][:count]:
        layer = name.removesuffix(".bn.weight")
        for kind in ("weight", "running_mean", "running_var", "num_batches_tracked"):
            del state[f"{layer}.bn.{kind}"]
        state[f"{layer}.conv.bias"] = state.pop(f"{layer}.bn.bias")
    torch.save({"model": renamed(state, "module.model."), "names": NAMES}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=f"fused into {count} of its 57 convolutions"):
        read_published(tmp_path / "x.pt")


def test_a_tiny_file_cannot_ask_for_a_large_network(network: YOLOv5, tmp_path: Path) -> None:
    state = dict(network.state_dict())
    for level, channels in enumerate((64, 128, 256)):
        state[f"model.24.m.{level}.weight"] = torch.zeros(1).expand(3 * 10**9, channels, 1, 1)
        state[f"model.24.m.{level}.bias"] = torch.zeros(1).expand(3 * 10**9)
    torch.save({"model": state, "names": NAMES}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"model\.24\.m\.0\.weight has size .* beyond the 1 num"):
        read_published(tmp_path / "x.pt")


@pytest.mark.parametrize("command", ["eval", "detect", "export"])
def test_a_checkpoint_is_taken_in_place_of_safetensors(
    checkpoints: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    command: str,
) -> None:
    """Told by its content: its name is that of a safetensors file."""
    weights, image = tmp_path / "n.safetensors", tmp_path / "image.png"
    weights.write_bytes((checkpoints / "n.pt").read_bytes())
    cv2.imwrite(str(image), np.full((64, 96, 3), 114, np.uint8))
    data = tmp_path / "data.json"
    data.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "image.png", "width": 96, "height": 64}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}],
                "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
            }
        )
    )
    arguments = {
        "eval": ["--weights", str(weights), "--data", str(data)],
        "detect": ["--weights", str(weights), "--out", str(tmp_path / "out"), str(image)],
        "export": [str(weights), str(tmp_path / "out.pt"), "--format", "ultralytics"],
    }
    assert main([command, *arguments[command]]) == 0
    said = f"{weights}: a checkpoint of yolov5n with 3 classes, read as by `yolo import`"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_training_starts_from_a_checkpoint(checkpoints: Path) -> None:
    network = YOLOv5("n", len(NAMES))
    loaded = load_weights(checkpoints / "n.pt", network, NAMES)
    assert len(loaded.matched) == 349 and not loaded.concerns
    expected = np.load(checkpoints / "n.npz")["model.0.conv.weight"]
    assert np.array_equal(network.state_dict()["model.0.conv.weight"].numpy(), expected)


def test_the_checkpoint_is_not_overwritten(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "n.safetensors"
    path.write_bytes((checkpoints / "n.pt").read_bytes())
    assert main(["import", str(path), str(path)]) == 2
    assert "is the checkpoint itself; name another file" in capsys.readouterr().err
    assert path.read_bytes() == (checkpoints / "n.pt").read_bytes()


def test_the_file_to_write_is_checked(
    checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(checkpoints / "n.pt"), "out.pt"]) == 2
    assert capsys.readouterr().err == "out.pt: expected the name of a .safetensors file to write\n"
