"""The commands that train and apply a network: `train`, `eval` and `detect`."""

import argparse
from pathlib import Path

from yolo.cli.arguments import Commands, add_command, add_recipe, count, fraction, one_recipe


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    train = add_command(commands, _train)
    add_recipe(train)
    train.add_argument("--dry-run", action="store_true", help="print the command and stop")

    evaluate = add_command(commands, _eval)
    _add_weights(evaluate)
    evaluate.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a data.yaml, a COCO file, a Pascal VOC list, or the folder of such a data set",
    )
    evaluate.add_argument(
        "--split",
        help="of a data.yaml or a data set's folder, such as test (default val)",
    )
    evaluate.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="the images of a COCO file (default: looked for nearby)",
    )
    evaluate.add_argument(
        "--confidence",
        type=fraction,
        help="count only what `yolo detect` shows at this score: one class per box (default: all, as COCO's AP needs)",
    )
    evaluate.add_argument(
        "--iou",
        type=fraction,
        help="IoU above which two boxes show one object (default 0.6; 0.45 with --confidence)",
    )
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write all figures there")
    evaluate.add_argument("--batch", type=count, default=16, help="images per batch (default 16)")

    detect = add_command(commands, _detect)
    detect.add_argument("images", nargs="+", type=Path, help="images, or folders of images")
    _add_weights(detect)
    detect.add_argument(
        "--out",
        type=Path,
        default=Path("runs/detect"),
        help="folder for the images with boxes and for detections.json (default runs/detect)",
    )
    detect.add_argument(
        "--confidence", type=fraction, default=0.25, help="lowest score (default 0.25)"
    )
    detect.add_argument(
        "--iou",
        type=fraction,
        default=0.45,
        help="IoU above which two boxes show one object (default 0.45)",
    )


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="a run's weights/best.safetensors, or a checkpoint of the public YOLOv5 (*.pt)",
    )


def _train(options: argparse.Namespace) -> None:
    """Train a recipe through the deepspeed launcher. Prints the launcher's command first."""
    from yolo.errors import LaunchError
    from yolo.launch.command import launch_training
    from yolo.launch.port import reserved_port
    from yolo.launch.supervisor import run_with_restarts
    from yolo.launch.terminal import survive_closed_terminal
    from yolo.preflight.local import missing_here, unfit_here
    from yolo.recipe import prepare
    from yolo.training.checkpointing.run_directory import choose_run, claim

    recipe, overrides = one_recipe(options)
    resolved = prepare(recipe, overrides).resolved  # the run logs the warnings
    run = choose_run(resolved.name, resolved.recipe.checkpoint.resume)
    if options.dry_run:
        with reserved_port(resolved.recipe.cluster) as port:
            print(launch_training(resolved, overrides, run, port))
        return
    resumes = run.newest_checkpoint is not None
    missing = list(missing_here(resolved, resumes))
    if resolved.recipe.cluster.hostfile is None:
        missing += unfit_here(resolved, resumes)
        if missing:
            raise LaunchError("\n".join(missing))
    survive_closed_terminal()
    run_with_restarts(resolved, overrides, claim(run))


def _eval(options: argparse.Namespace) -> None:
    """Measure the average precision of weights on a data set."""
    from yolo.evaluation.commands import evaluate_weights
    from yolo.tracking.console import CountProgress

    for line in evaluate_weights(
        options.weights,
        options.data,
        options.json,
        options.batch,
        CountProgress,
        split=options.split,
        images=options.images,
        confidence=options.confidence,
        iou=options.iou,
    ):
        print(line)


def _detect(options: argparse.Namespace) -> None:
    """Draw what weights detect in images."""
    from yolo.evaluation.commands import detect_and_draw
    from yolo.tracking.console import CountProgress

    for line in detect_and_draw(
        options.weights,
        options.images,
        options.out,
        options.confidence,
        options.iou,
        CountProgress,
    ):
        print(line)
