"""The commands that take weights from elsewhere, and hand them there: `import` and `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolo.cli.arguments import command


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
    from yolo.model.published import import_checkpoint

    print(import_checkpoint(options.checkpoint, options.out))
