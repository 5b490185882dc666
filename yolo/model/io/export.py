"""Weights for other programs: the public YOLOv5's state dict, ONNX, TorchScript."""

import json
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo.architecture import VARIANTS
from yolo.errors import WeightsError
from yolo.model.io.weights import Detector, load_detector, written_whole
from yolo.model.network import YOLOv5

INPUT, OUTPUT = "images", "predictions"
MOST_DIFFERENCE = 1e-4
"""Of an exported network's output from torch's, relative to the largest number of it: an export beyond it is refused."""


class Format(StrEnum):
    """What `yolo export` writes."""

    ULTRALYTICS = "ultralytics"
    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the images that an exported network takes."""

    height: int
    width: int
    batch: int | None = None
    """Images at once; None for any number."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an exported network's output is from torch's, on random images."""

    largest: float
    """Absolute; infinite where the shapes differ."""
    magnitude: float
    """The largest number of torch's output."""

    @property
    def relative(self) -> float:
        """To the magnitude."""
        return self.largest / self.magnitude


def export_weights(
    weights: Path,
    out: Path,
    to: Format,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> str:
    """Write weights in another format, whole or not at all; a line about the file comes back.

    `size` (height, width) in pixels is for ONNX and TorchScript, the weights' own where None; `batch` fixes the number
    of images that an ONNX network takes at once. What is written is run, and compared with torch, before it gets its
    name. `advance` is told of each of three pieces of work. Folders of `out` are made. WeightsError for weights that
    cannot be read, a size that is no multiple of the network's largest stride, and where `out` cannot be written.

    ultralytics: a dict of `torch.save` with `model` (the state dict, in fp32, of the public names; anchors in grid units),
    `names`, `nc`, `anchors` (pixels), `stride`, `yaml` and `image_size`. The public code builds its network from its own
    yaml and then takes them: `model.load_state_dict(torch.load(OUT)["model"])`. `read_published` reads the file back bit
    for bit.

    onnx, torchscript: images (B, 3, H, W) in 0..1, RGB, fp32, to decoded predictions (B, N, 5 + classes) as
    `YOLOv5.decode` has them, before non-maximum suppression. TorchScript takes other sizes too, and runs
    on processors, whose memory its trace names.
    """
    detector = load_detector(weights)
    if out.exists() and out.samefile(weights):
        raise WeightsError(f"{out}: is the weights themselves; name another file to write")
    detector.model.eval()
    height, width = size or (detector.image_size, detector.image_size)
    stride = detector.model.stride[-1]
    if height % stride or width % stride:
        raise WeightsError(
            f"{height}x{width}: expected multiples of {stride}, the largest stride of yolov5{detector.model.variant}"
        )
    shape = Shape(height, width, batch)
    out.parent.mkdir(parents=True, exist_ok=True)
    advance(1)
    with written_whole(out) as unfinished:
        match to:
            case Format.ULTRALYTICS:
                torch.save(_as_published(detector), unfinished)
                advance(2)
                return f"{out}: yolov5{detector.model.variant}, {detector.model.classes} classes"
            case Format.ONNX:
                _save_onnx(detector, shape, unfinished)
                run = _run_onnx
            case Format.TORCHSCRIPT:
                _save_torchscript(detector, shape, unfinished)
                run = _run_torchscript
        advance(1)
        found = compare(detector.model, lambda images: run(unfinished, images), shape)
        if not found.relative <= MOST_DIFFERENCE:
            raise WeightsError(
                f"{out}: its output differs from torch's by {found.largest:.1e} at values up to {found.magnitude:.0f}, and"
                " is not written; is its runtime a supported release (requirements.txt)?"
            )
        advance(1)
    return (
        f"{out}: yolov5{detector.model.variant}, {detector.model.classes} classes, {height}x{width} pixels; differs from"
        f" torch by {found.largest:.1e} at values up to {found.magnitude:.0f}"
    )


def compare(model: YOLOv5, run: Callable[[Tensor], Tensor], shape: Shape) -> Difference:
    """How far `run` is from the network's own predictions, on random images that are always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(shape.batch or 1, 3, shape.height, shape.width, generator=generator)
    with torch.no_grad():
        expected = model(images)
    found = run(images)
    is_alike = found.shape == expected.shape
    largest = float((found - expected).abs().max()) if is_alike else math.inf
    return Difference(largest, float(expected.abs().max()))


def _as_published(detector: Detector) -> dict[str, Any]:
    model = detector.model
    scale = VARIANTS[model.variant]
    anchors = model.anchors.tolist()
    return {
        "model": dict(model.state_dict()),
        "names": dict(enumerate(detector.class_names)),
        "nc": model.classes,
        "anchors": anchors,
        "stride": list(model.stride),
        "image_size": detector.image_size,
        "yaml": {
            "nc": model.classes,
            "depth_multiple": scale.depth,
            "width_multiple": scale.width,
            "anchors": [[side for anchor in level for side in anchor] for level in anchors],
        },
    }


def _metadata(detector: Detector, shape: Shape) -> dict[str, str]:
    """Each a literal of JSON and of Python."""
    return {
        "names": json.dumps(detector.class_names),
        "stride": str(detector.model.stride[-1]),
        "imgsz": json.dumps([shape.height, shape.width]),
        "variant": detector.model.variant,
    }


def _save_onnx(detector: Detector, shape: Shape, path: Path) -> None:
    # With one example image the exporter would take the number for a constant.
    images = torch.rand(shape.batch or 2, 3, shape.height, shape.width)
    dynamic = None if shape.batch else {INPUT: {0: torch.export.Dim("batch")}}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(
        logging.ERROR
    )  # it warns of operators of torchvision, which this network has none of
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                detector.model,
                (images,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=dynamic,
                dynamo=True,
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert program is not None
    program.model.metadata_props.update(_metadata(detector, shape))
    program.save(path)


def _run_onnx(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (predictions,) = session.run([OUTPUT], {INPUT: images.numpy()})
    return torch.from_numpy(predictions)


def _save_torchscript(detector: Detector, shape: Shape, path: Path) -> None:
    images = torch.rand(shape.batch or 2, 3, shape.height, shape.width)
    with warnings.catch_warnings():
        # Of constants in the trace, which the strides and the check of the images' size are to be, and of torch.export.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(detector.model, images)
        facts = json.dumps(_metadata(detector, shape))
        torch.jit.save(traced, str(path), _extra_files={"config.txt": facts})


def _run_torchscript(path: Path, images: Tensor) -> Tensor:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        predictions: Tensor = torch.jit.load(str(path))(images)
    return predictions
