"""The commands that convert data and weights: `convert`, `shard`, `import` and `export`."""

import argparse
from pathlib import Path

from yolo.cli.arguments import Commands, add_command, add_words, count, recipes_and_overrides
from yolo.errors import RecipeError

SHARD_MB = 256
FORMATS = ("ultralytics", "onnx", "torchscript")


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    converting = add_command(commands, _convert)
    converting.add_argument(
        "source",
        type=Path,
        help="a data.yaml, a COCO file, a Pascal VOC list, or the folder of such a data set, in which the splits train, val "
        "(or valid) and test are read",
    )
    converting.add_argument("--to", choices=("coco", "yolo"), required=True)
    converting.add_argument("--out", type=Path, required=True, help="the folder to write")
    converting.add_argument(
        "--images", type=Path, help="folder of a COCO file's images (default: looked for nearby)"
    )

    shard = add_command(commands, _shard)
    add_words(shard, "RECIPE OUT", "a recipe (YAML file), the folder for train/ and val/")
    shard.add_argument("--split", choices=("train", "val"), help="one of the two (default: both)")
    size = shard.add_mutually_exclusive_group()
    size.add_argument(
        "--shard-mb",
        type=count,
        default=SHARD_MB,
        metavar="MB",
        help=f"approximate size of a shard (default {SHARD_MB})",
    )
    size.add_argument(
        "--shards",
        type=count,
        metavar="N",
        help="number of shards of the training split; best a multiple of ranks x data.workers: each worker reads its own",
    )

    importing = add_command(commands, _import)
    importing.add_argument(
        "checkpoint", type=Path, help="a published or trained checkpoint, or a state dict (*.pt)"
    )
    importing.add_argument("out", type=Path, help="the file to write (*.safetensors)")
    importing.add_argument(
        "--classes",
        metavar="A,B,... or FILE",
        help="class names in order, or a data.yaml, or a file of one name per line (default: those in the checkpoint)",
    )

    export = add_command(commands, _export)
    export.add_argument(
        "weights", type=Path, help="a run's weights/best.safetensors, or a checkpoint (*.pt)"
    )
    export.add_argument("out", type=Path, help="the file to write")
    export.add_argument("--format", choices=FORMATS, required=True, help="see above")
    export.add_argument(
        "--image-size",
        type=_size,
        metavar="N or HxW",
        help="for onnx and torchscript, in pixels (default: the image size of the training)",
    )
    export.add_argument(
        "--batch",
        type=count,
        metavar="N",
        help="for onnx: fixed number of images per batch (default: any number)",
    )


def _convert(options: argparse.Namespace) -> None:
    """Convert a data set in YOLO, COCO or Pascal VOC form to COCO JSON or the YOLO format. All its splits are written; images
    are linked, or copied to another file system."""
    from yolo.data.conversion import Target, convert
    from yolo.tracking.console import CountProgress

    for line in convert(
        options.source, Target(options.to), options.out, options.images, CountProgress
    ):
        print(line)


def _shard(options: argparse.Namespace) -> None:
    """Write a recipe's data as shards, from which training streams them. Then train with data.format=shards data.root=OUT
    data.train=train data.val=val."""
    from yolo.data.shards.writer import shard_split, shards_line
    from yolo.recipe import prepare
    from yolo.tracking.console import CountProgress

    paths, overrides = recipes_and_overrides(options)
    if len(paths) != 2:
        raise RecipeError(
            f"expected a recipe and the folder to write to, found {', '.join(map(str, paths))}; "
            "for example `yolo shard recipes/demo.yaml data/demo-shards`"
        )
    recipe, out = paths
    resolved = prepare(recipe, overrides).resolved
    for split in ("train", "val") if options.split is None else (options.split,):
        shards = options.shards if split == "train" or options.split == "val" else None
        index, problems = shard_split(
            resolved.recipe, split, out, options.shard_mb, shards, CountProgress
        )
        for line in shards_line(index, out / split, problems):
            print(line)


def _import(options: argparse.Namespace) -> None:
    """Convert a checkpoint of the public YOLOv5 into weights for `eval`, `detect` and model.weights. Reads networks n to x6
    of release 6 or later, pickled or as a state dict, and never executes code that is pickled in the file."""
    from yolo.model.io.weights import import_checkpoint

    class_names = None if options.classes is None else _class_names(options.classes)
    print(import_checkpoint(options.checkpoint, options.out, class_names))


def _class_names(text: str) -> list[str]:
    """Names separated by commas, or those of a file: a data.yaml, or one per line. Raises DataError or WeightsError."""
    from yolo.data.formats.data_yaml import DataYaml
    from yolo.data.location import YAML_SUFFIXES
    from yolo.errors import DataError, WeightsError
    from yolo.recipe.load.safe_read import MB, read_text

    path = Path(text)
    if "," in text or not (path.suffix or path.exists()):
        names = [name.strip() for name in text.split(",")]
        if not all(names):
            raise WeightsError(
                f"--classes {text}: class {names.index('')} has no name; expected names separated by commas"
            )
        return names
    if path.suffix in YAML_SUFFIXES:
        return list(DataYaml.read(path).class_names)
    try:
        lines = read_text(path, MB).splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text in UTF-8: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _export(options: argparse.Namespace) -> None:
    """Convert weights for other programs. ultralytics: a checkpoint (*.pt) that the public YOLOv5 opens to detect, or to
    train from; `yolo import` reads it back. onnx, torchscript: images (B, 3, H, W) in 0..1 to decoded predictions
    (B, N, 5 + classes), before non-maximum suppression; the file is compared with torch before it gets its name."""
    from yolo.errors import WeightsError
    from yolo.model.io.export import Format, export_weights
    from yolo.tracking.console import CountProgress

    to = Format(options.format)
    if to is Format.ULTRALYTICS and options.image_size:
        raise WeightsError(
            "--image-size: is for onnx and torchscript; ultralytics holds weights only"
        )
    if to is not Format.ONNX and options.batch:
        raise WeightsError(f"--batch: is for onnx; {to} takes any number of images")
    with CountProgress(f"exporting to {to}", 3) as advance:
        line = export_weights(
            options.weights, options.out, to, options.image_size, options.batch, advance
        )
    print(line)


def _size(text: str) -> tuple[int, int]:
    """Parse 640, or 384x640 (height x width)."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text}: expected pixels such as 640, or HxW such as 384x640"
        )
    return int(sides[0]), int(sides[-1])
