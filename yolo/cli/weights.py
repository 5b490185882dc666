"""The commands that take weights from elsewhere, and hand them there: `import` and `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolo.cli.arguments import command, count

FORMATS = ("ultralytics", "onnx", "torchscript")


def add_import(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`yolo import`."""
    text = (
        "turn a checkpoint of the public YOLOv5 into weights for `eval`, `detect` and model.weights. Reads networks n to x6 of "
        "release 6 or later, and runs nothing of what is pickled in the file."
    )
    parser = command(commands, "import", _import, text)
    parser.add_argument("checkpoint", type=Path, help="a published or trained checkpoint (*.pt)")
    parser.add_argument("out", type=Path, help="the file to write (*.safetensors)")


def _import(options: argparse.Namespace) -> None:
    from yolo.model.io.ultralytics import import_checkpoint

    print(import_checkpoint(options.checkpoint, options.out))


def add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`yolo export`."""
    text = (
        "write weights for other programs. ultralytics: a .pt file with the public YOLOv5's state dict, for which its code "
        "builds the network from its own yaml and calls model.load_state_dict(torch.load(OUT)['model']); `yolo import` reads "
        "it back. onnx, torchscript: images (B, 3, H, W) in 0..1 to decoded predictions (B, N, 5 + classes), before "
        "non-maximum suppression; compared with torch before the file gets its name."
    )
    parser = command(commands, "export", _export, text)
    parser.add_argument("weights", type=Path, help="a run's weights/best.safetensors")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument(
        "--format", choices=FORMATS, required=True, help="what to write (see above)"
    )
    parser.add_argument(
        "--image-size",
        type=_size,
        metavar="N or HxW",
        help="of onnx and torchscript, in pixels (default: the side that the weights were trained at)",
    )
    parser.add_argument(
        "--batch",
        type=count,
        metavar="N",
        help="of onnx: images at once, no more and no fewer (default: any number)",
    )


def _export(options: argparse.Namespace) -> None:
    from yolo.errors import WeightsError
    from yolo.model.io.export import Format, export_weights
    from yolo.tracking.console import CountProgress

    to = Format(options.format)
    if to is Format.ULTRALYTICS and options.image_size:
        raise WeightsError(
            "--image-size: is for onnx and torchscript; ultralytics holds weights alone"
        )
    if to is not Format.ONNX and options.batch:
        raise WeightsError(f"--batch: is for onnx; {to} takes any number of images")
    with CountProgress(f"exporting to {to}", 3) as advance:
        line = export_weights(
            options.weights, options.out, to, options.image_size, options.batch, advance
        )
    print(line)


def _size(text: str) -> tuple[int, int]:
    """640, or 384x640: height and width."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text}: expected pixels such as 640, or HxW such as 384x640"
        )
    return int(sides[0]), int(sides[-1])
