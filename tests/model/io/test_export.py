"""Weights for other programs: these compute what torch computes here."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from yolo.cli import main
from yolo.model import YOLOv5
from yolo.model.io import export
from yolo.model.io.weights import build_from_weights, save_weights

STAND_IN = Path(__file__).parent / "stand_in"
NAMES = ["a cup", "ein Löffel 🥄", 'a "plate"']
ANCHORS = tuple(((8.0 * s, 9.0), (16.5 * s, 7.3), (20.0, 31.0 * s)) for s in (1, 2, 4, 8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of yolov5n for 64 pixels, and of yolov5n6 for 128 with other anchors than COCO's."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for variant, size, anchors in (("n", 64, None), ("n6", 128, ANCHORS)):
        network = YOLOv5(variant, len(NAMES), anchors)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
                nn.init.uniform_(module.weight, 0.8, 1.6)
        facts = {"class_names": json.dumps(NAMES), "image_size": str(size)}
        save_weights(folder / f"{variant}.safetensors", network, facts)
    return folder


def predictions(weights: Path, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = build_from_weights(weights)[0].eval()(images).numpy()
    return found


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    """To a ten-thousandth of the largest number; and they are not constant."""
    assert found.shape == expected.shape
    assert expected[..., 4].std() > 1e-4
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    # Scores are below 1, where the largest number is hundreds of pixels.
    assert np.abs(found - expected)[..., 4:].max() <= 1e-4


@pytest.mark.parametrize("variant", ["n", "n6"])
def test_the_public_form_comes_back_bit_for_bit(
    weights: Path, tmp_path: Path, variant: str
) -> None:
    source, out = weights / f"{variant}.safetensors", tmp_path / "new folder" / "out.pt"
    back = tmp_path / "back.safetensors"
    assert main(["export", str(source), str(out), "--format", "ultralytics"]) == 0
    assert main(["import", str(out), str(back)]) == 0
    before, after = load_file(source), load_file(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert build_from_weights(source)[1] == build_from_weights(back)[1]
    assert [path.name for path in out.parent.iterdir()] == ["out.pt"]


def test_a_loader_of_the_public_classes_opens_the_public_form(
    weights: Path, tmp_path: Path
) -> None:
    """As the public loader does it; with stand-ins for its classes, in a process of their own."""
    out, images = tmp_path / "out.pt", torch.rand(2, 3, 128, 192)
    source = weights / "n6.safetensors"
    assert main(["export", str(source), str(out), "--format", "ultralytics"]) == 0
    assert "models" not in sys.modules
    np.save(tmp_path / "images.npy", images.numpy())
    program = (
        "import json, numpy, torch\n"
        "from models.yolo import DetectionModel, network_of\n"
        "checkpoint = torch.load('out.pt', map_location='cpu', weights_only=False)\n"
        "model = (checkpoint.get('ema') or checkpoint['model']).to('cpu').float()\n"
        "assert type(model) is DetectionModel\n"
        "images = torch.from_numpy(numpy.load('images.npy'))\n"
        "numpy.save('found.npy', model.fuse().eval()(images).detach().numpy())\n"
        "head = model.model[-1]\n"
        "facts = {'names': model.names, 'nc': model.nc, 'stride': model.stride.tolist(), 'save': model.save,\n"
        "         'head': [head.nc, head.no, head.nl, head.na, head.stride.tolist(), head.inplace],\n"
        "         'grids': [len(head.grid), len(head.anchor_grid)], 'yaml': model.yaml,\n"
        "         'layers': [[m.i, m.f, m.type, m.np] for m in model.model]}\n"
        "json.dump(facts, open('facts.json', 'w'))\n"
        "again = torch.load('out.pt', weights_only=False)['model'].float()\n"
        "network_of(again.yaml).load_state_dict(again.state_dict())\n"  # as public training does
    )
    environment = os.environ | {"PYTHONPATH": str(STAND_IN)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    found, expected = np.load(tmp_path / "found.npy"), predictions(source, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["names"] == {"0": NAMES[0], "1": NAMES[1], "2": NAMES[2]}
    assert (facts["nc"], facts["stride"]) == (3, [8, 16, 32, 64])
    assert facts["save"] == [4, 6, 8, 12, 16, 20, 23, 26, 29, 32]
    assert facts["head"] == [3, 8, 4, 3, [8, 16, 32, 64], True]
    assert facts["grids"] == [4, 4]
    layers = facts["layers"]
    assert layers[0] == [0, -1, "models.common.Conv", 6 * 6 * 3 * 16 + 2 * 16]
    assert layers[12:15] == [
        [12, -1, "models.common.Conv", 49536],
        [13, -1, "torch.nn.modules.upsampling.Upsample", 0],
        [14, [-1, 8], "models.common.Concat", 0],
    ]
    assert layers[33][:3] == [33, [23, 26, 29, 32], "models.yolo.Detect"]
    described = facts["yaml"]
    assert described["anchors"][3] == pytest.approx([x for pair in ANCHORS[3] for x in pair])
    assert described["backbone"][:3] == [
        [-1, 1, "Conv", [64, 6, 2, 2]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 3, "C3", [128]],
    ]
    assert described["head"][1:4] == [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 8], 1, "Concat", [1]],
        [-1, 3, "C3", [768, False]],
    ]
    assert described["head"][-1] == [[23, 26, 29, 32], 1, "Detect", ["nc", "anchors"]]


@pytest.mark.parametrize(
    ("variant", "options", "size"),
    [("n", ("--image-size", "64x96"), (64, 96)), ("n6", ("--batch", "2"), (128, 128))],
)
def test_onnx_computes_what_torch_does(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    variant: str,
    options: tuple[str, ...],
    size: tuple[int, int],
) -> None:
    source, out = weights / f"{variant}.safetensors", tmp_path / "out.onnx"
    assert main(["export", str(source), str(out), "--format", "onnx", *options]) == 0
    said = f"{out}: yolov5{variant}, 3 classes, {size[0]}x{size[1]} pixels; differs from torch by "
    assert capsys.readouterr().out.startswith(said)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    has_fixed_batch = "--batch" in options
    for batch in (2,) if has_fixed_batch else (1, 3):
        images = torch.rand(batch, 3, *size)
        (found,) = session.run(["predictions"], {"images": images.numpy()})
        assert_alike(found, predictions(source, images))
    assert session.get_inputs()[0].shape == [2 if has_fixed_batch else "batch", 3, *size]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["names"]) == NAMES
    assert json.loads(metadata["imgsz"]) == list(size)
    # As the public code reads them.
    assert ast.literal_eval(metadata["names"]) == NAMES
    assert int(metadata["stride"]) == {"n": 32, "n6": 64}[variant]
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize(("variant", "sizes"), [("n", [(64, 64), (96, 32)]), ("n6", [(128, 192)])])
def test_torchscript_computes_what_torch_does_at_any_size(
    weights: Path, tmp_path: Path, variant: str, sizes: list[tuple[int, int]]
) -> None:
    source, out = weights / f"{variant}.safetensors", tmp_path / "out.torchscript"
    assert main(["export", str(source), str(out), "--format", "torchscript"]) == 0
    extra = {"config.txt": ""}
    loaded = torch.jit.load(str(out), _extra_files=extra)
    # As the public code reads them.
    metadata = json.loads(
        extra["config.txt"],
        object_hook=lambda found: {int(k) if k.isdigit() else k: v for k, v in found.items()},
    )
    assert [metadata["names"][number] for number in range(len(NAMES))] == NAMES
    assert int(metadata["stride"]) == {"n": 32, "n6": 64}[variant]
    for batch, size in enumerate(sizes, start=1):
        images = torch.rand(batch, 3, *size)
        with torch.no_grad():
            assert_alike(loaded(images).numpy(), predictions(source, images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("gone.safetensors", "out.pt", "--format", "ultralytics"),
            "gone.safetensors: no such file",
        ),
        (("{n}", "{n}", "--format", "onnx"), "is the weights themselves"),
        (("{n}", "{tmp}", "--format", "ultralytics"), "cannot be written"),
        (("{n}", "{n}/out.pt", "--format", "ultralytics"), "n.safetensors: "),
        (
            ("{n}", "out.onnx", "--format", "onnx", "--image-size", "50"),
            "50x50: expected multiples of 32",
        ),
        (
            ("{n6}", "out.onnx", "--format", "onnx", "--image-size", "64x96"),
            "64x96: expected multiples of 64, the largest stride of yolov5n6",
        ),
        (
            ("{n}", "out.pt", "--format", "ultralytics", "--image-size", "64"),
            "--image-size: is for",
        ),
        (("{n}", "out.ts", "--format", "torchscript", "--batch", "2"), "--batch: is for onnx"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"tmp": tmp_path, **{v: weights / f"{v}.safetensors" for v in ("n", "n6")}}
    assert main(["export", *(argument.format(**places) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "coreml"), "invalid choice: 'coreml'"),
        (("--format", "onnx", "--image-size", "0"), "0: expected pixels such as 640"),
        (("--format", "onnx", "--image-size", "1x2x3"), "1x2x3: expected pixels such as 640"),
        ((), "the following arguments are required: --format"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", "w.safetensors", "out", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_export_that_computes_something_else_gets_no_name(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.torchscript"
    out.write_text("an older one")
    monkeypatch.setattr(export, "_run_torchscript", lambda path, images: images)
    arguments = [str(weights / "n.safetensors"), str(out), "--format", "torchscript"]
    assert main(["export", *arguments]) == 2
    assert f"{out}: its output differs from torch's by inf" in capsys.readouterr().err
    assert out.read_text() == "an older one"
    assert [path.name for path in tmp_path.iterdir()] == ["out.torchscript"]


def test_onnx_is_imported_only_where_it_is_asked_for() -> None:
    program = (
        "import sys, yolo.cli.conversion, yolo.model.io.export, yolo.model.io.ultralytics\n"
        "sys.exit(bool({'onnx', 'onnxruntime', 'onnxscript', 'onnx_ir'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
