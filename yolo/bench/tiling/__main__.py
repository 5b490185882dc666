"""Are large objects found better in whole images than in tiles? `python -m yolo.bench.tiling [section.key=value ...]`.

Draws large images of textured shapes, trains one network on whole images, on overlapping tiles as SAHI cuts them, and on
images shrunk to a usual size, and evaluates all in the coordinates of the whole images. Each approach sees the same
number of pixels. Stopped, the same command resumes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolo.bench import results
from yolo.bench.command_line import add_out
from yolo.bench.tiling.approaches import Job, Measured, Plan, detect, plans
from yolo.bench.tiling.images import START_SIZE, draw_large, draw_start
from yolo.bench.tiling.picture import draw_picture
from yolo.bench.tiling.rows import Row, Setup, TilingResults
from yolo.data.open import load_annotated
from yolo.errors import BenchError, exit_code_of
from yolo.evaluation.detections import GroundTruth
from yolo.recipe import prepare

BASE = Path("recipes/large_images.yaml")
START_BASE = Path("recipes/demo.yaml")
ALWAYS = ("tracking.wandb.mode=disabled", "checkpoint.resume=auto")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, train, evaluate, write tiling.json, .md and .png; returns the exit code, 2 for an error that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.tiling", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for all runs")
    parser.add_argument("--base", type=Path, default=BASE, help="default %(default)s")
    for name, default, text in (
        ("--size", 3072, "side of the images, pixels"),
        ("--tile", 640, "side of the tiles, and of the shrunk images, pixels"),
        ("--train-images", 24, "images to train on"),
        ("--val-images", 8, "images to evaluate on"),
        ("--epochs", 15, "epochs over whole images; the others see as many pixels"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text}; default %(default)s")
    parser.add_argument(
        "--start",
        type=Path,
        metavar="WEIGHTS",
        help="weights that all start from; by default they are trained on small images, in some minutes",
    )
    parser.add_argument(
        "--whole",
        action="append",
        default=[],
        metavar="section.key=value",
        help="for the run on whole images alone, such as sharding.columns=2",
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="default %(default)s")
    add_out(parser)
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "tiling", "stopped; finished runs are kept")


def _bench(options: argparse.Namespace) -> None:
    if options.tile >= options.size:
        raise BenchError(
            f"--size {options.size} --tile {options.tile}: expected a tile smaller than the images"
        )
    images = draw_large(
        options.data, options.size, options.tile, options.train_images, options.val_images
    )
    truth = GroundTruth.of(load_annotated(images.large, "val"))
    variant = prepare(options.base, options.overrides).resolved.recipe.model.variant
    start = options.start or _train_start(options, variant)
    all_plans = plans(images, options.size, options.tile, options.train_images)
    pixels = options.epochs * all_plans[0].pixels_per_epoch
    jobs = [_job(options, plan, plan.epochs_for(pixels), start) for plan in all_plans]
    rows: list[Row] = []
    measured: list[tuple[Plan, Measured]] = []
    for plan, job in zip(all_plans, jobs, strict=True):
        measured.append((plan, detect(plan, job.train(), truth)))
        rows.append(_row(plan, job, measured[-1][1]))
        found = TilingResults(_setup(options, truth, variant), tuple(rows))
        figure = draw_picture(truth, measured)
        written = results.write_results(
            options.out, "tiling", found.as_json(), found.markdown(), figure
        )
    print(found.markdown())
    print("wrote", ", ".join(map(str, written)))


def _train_start(options: argparse.Namespace, variant: str) -> Path:
    """Train on small images; returns the weights."""
    settings = (
        *(*ALWAYS, f"data.root={draw_start(options.data)}"),
        *(f"model.variant={variant}", f"model.image_size={START_SIZE}"),
    )
    job = Job("start", settings, prepare(START_BASE, settings).resolved)
    return job.train()


def _job(options: argparse.Namespace, plan: Plan, epochs: int, start: Path) -> Job:
    settings = (
        *(*ALWAYS, f"data.root={plan.root}", f"model.weights={start}"),
        *(f"model.image_size={plan.image_size}", f"train.epochs={epochs}"),
        *(f"train.global_batch={plan.batch}", "train.micro_batch=auto"),
        *(f"evaluation.every_epochs={epochs}", f"checkpoint.every_epochs={epochs}"),
        *options.overrides,
        *(options.whole if plan.name == "whole" else ()),
    )
    return Job(plan.name, settings, prepare(options.base, settings).resolved)


def _row(plan: Plan, job: Job, measured: Measured) -> Row:
    summary = json.loads(job.run.summary.read_text(encoding="utf-8"))
    metrics, train = measured.metrics, job.resolved.recipe.train
    names = ("ap", "ap50", "ap_small", "ap_large")
    figures: dict[str, Any] = {name: getattr(metrics, name) or 0.0 for name in names}
    return Row(
        trained_on=plan.name,
        image_size=plan.image_size,
        batch=train.global_batch,
        inputs_per_epoch=plan.inputs,
        epochs=train.epochs,
        megapixels=train.epochs * plan.pixels_per_epoch / 1e6,
        merging=measured.merging.name,
        ap_by_merging=dict(measured.ap_by_merging),
        settings=job.settings,
        **{name: summary[name] for name in ("steps", "wall_seconds", "world_size")},
        **figures,
    )


def _setup(options: argparse.Namespace, truth: GroundTruth, variant: str) -> Setup:
    return Setup(
        variant=variant,
        recipe=str(options.base),
        size=options.size,
        tile=options.tile,
        train_images=options.train_images,
        val_images=len(truth.images),
        val_boxes=sum(len(image.boxes) for image in truth.images),
        machine=results.machine_facts(),
    )


if __name__ == "__main__":
    sys.exit(main())
