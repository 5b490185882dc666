"""Export weights for other programs: a checkpoint of the public YOLOv5, ONNX, TorchScript."""

import json
import logging
import math
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo.errors import WeightsError
from yolo.model.io.public_modules import save_public
from yolo.model.io.weights import Detector, atomic_write, load_detector

INPUT, OUTPUT = "images", "predictions"
MAX_DIFFERENCE = 1e-4
"""Between an exported network's output and torch's, relative to torch's largest number; beyond it, refused."""


class Format(StrEnum):
    """What `yolo export` writes."""

    ULTRALYTICS = "ultralytics"
    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"


def export_weights(
    weights: Path,
    out: Path,
    to: Format,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> str:
    """Write weights in another format, atomically, and return one line about the file.

    `size` (height, width) in pixels is for ONNX and TorchScript, by default the weights' own; `batch` fixes the number
    of images per call of an ONNX network. The network is run and compared with torch before the file gets its name.
    `advance` is called after each of three pieces of work. Folders of `out` are created. WeightsError for unreadable
    weights, a size that is no multiple of the network's largest stride, or an `out` that cannot be written.

    ultralytics: a checkpoint of `torch.save` whose `model` is a pickled network of the public classes, in fp32, as their
    loader and their training expect it. `read_published` reads the file back bit for bit.

    onnx, torchscript: images (B, 3, H, W) in 0..1, RGB, fp32, to decoded predictions (B, N, 5 + classes) as from
    `YOLOv5.decode`, before non-maximum suppression. TorchScript also takes other sizes; it runs on the CPU, the device
    that its trace names.
    """
    detector = load_detector(weights)
    if out.exists() and out.samefile(weights):
        raise WeightsError(f"{out}: is the weights themselves; name another file to write")
    model = detector.model.eval()
    height, width = size or (detector.image_size, detector.image_size)
    stride = model.stride[-1]
    if height % stride or width % stride:
        raise WeightsError(
            f"{height}x{width}: expected multiples of {stride}, the largest stride of yolov5{model.variant}"
        )
    line = f"{out}: yolov5{model.variant}, {model.classes} classes"
    out.parent.mkdir(parents=True, exist_ok=True)
    advance(1)
    with atomic_write(out) as temporary:
        if to is Format.ULTRALYTICS:
            save_public(model, detector.class_names, detector.image_size, temporary)
            advance(2)
            return line
        # From one example image the exporter would take the batch size for a constant.
        example = torch.rand(batch or 2, 3, height, width)
        if to is Format.ONNX:
            _save_onnx(detector, example, batch is not None, temporary)
            run = _run_onnx
        else:
            _save_torchscript(detector, example, temporary)
            run = _run_torchscript
        advance(1)
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(batch or 1, 3, height, width, generator=generator)
        with torch.no_grad():
            expected = model(images)
        found = run(temporary, images)
        is_alike = found.shape == expected.shape
        difference = float((found - expected).abs().max()) if is_alike else math.inf
        largest = float(expected.abs().max())
        if not difference / largest <= MAX_DIFFERENCE:
            raise WeightsError(
                f"{out}: its output differs from torch's by {difference:.1e} at values up to {largest:.0f}, so it was not"
                " written; use a supported release of its runtime (requirements.txt)"
            )
        advance(1)
    return f"{line}, {height}x{width} pixels; differs from torch by {difference:.1e} at values up to {largest:.0f}"


def _metadata(detector: Detector, example: Tensor) -> dict[str, Any]:
    """What the public code reads from an exported network (`stride`, `names`), and more."""
    return {
        "stride": detector.model.stride[-1],
        "names": list(detector.class_names),
        "imgsz": list(example.shape[2:]),
        "variant": detector.model.variant,
    }


def _save_onnx(detector: Detector, example: Tensor, has_fixed_batch: bool, path: Path) -> None:
    dynamic = None if has_fixed_batch else {INPUT: {0: torch.export.Dim("batch")}}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of torchvision's operators, which this network lacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                detector.model,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=dynamic,
                dynamo=True,
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert program is not None
    # Texts that are literals of both JSON and Python: the public code reads them by `eval`.
    metadata = _metadata(detector, example)
    literals = {
        k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
        for k, v in metadata.items()
    }
    program.model.metadata_props.update(literals)
    program.save(path)


def _run_onnx(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (predictions,) = session.run([OUTPUT], {INPUT: images.numpy()})
    return torch.from_numpy(predictions)


def _save_torchscript(detector: Detector, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        # About constants in the trace (intended: strides, the check of the image size), and about torch.export.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(detector.model, example)
        metadata = json.dumps(_metadata(detector, example))
        torch.jit.save(traced, str(path), _extra_files={"config.txt": metadata})


def _run_torchscript(path: Path, images: Tensor) -> Tensor:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path))(images)
