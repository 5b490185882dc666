"""Are large objects found better in whole images than in tiles? `python -m yolo.bench.tiling [section.key=value ...]`.

Draws large images of textured shapes, trains one network on whole images, on overlapping tiles as SAHI cuts them, and on
images shrunk to a usual size, and evaluates all in the coordinates of the whole images. Each approach sees the same
number of pixels. Stopped, the same command resumes.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
import json

from yolo.bench import results
from yolo.bench.command_line import add_out
from yolo.bench.tiling.approaches import Job, Measured, Plan, plans
from yolo.bench.tiling.picture import draw_picture
from yolo.bench.tiling.tiles import write_views
from yolo.data.dataset import DetectionDataset
from yolo.data.demo import MARKER, DemoSettings, ShapeSizes, generate_demo
from yolo.data.open import load_annotated
from yolo.errors import BenchError, exit_code_of
from yolo.evaluation.detections import GroundTruth
from yolo.recipe import prepare

BASE = Path("recipes/large_images.yaml")
QUIET = "tracking.wandb.mode=disabled"
LARGE = ShapeSizes(0.08, 0.18, 8)
"""At 3,072 pixels 490 to 1,100 across: a tile of 1,024 cuts nearly all."""
SMALL_RADII = (10.0, 15.0)
"""Pixels: small in COCO's terms, and whole in one of two tiles that overlap."""
MOST_SMALL = 8
COLUMNS = (
    *("trained on", "pixels at the input", "inputs per step", "epochs", "steps", "Mpixels seen"),
    *("seconds", "AP", "AP50", "AP of small objects", "AP of large objects", "AP above tiles"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One approach. AP is measured in the pixels of the whole images."""

    trained_on: str
    image_size: int
    """At the network's input, pixels."""
    batch: int
    """Inputs per optimizer step."""
    inputs_per_epoch: int
    epochs: int
    steps: int
    megapixels: float
    """Seen at the network's input in all epochs."""
    wall_seconds: float
    world_size: int
    merging: str
    """How detections of views were merged."""
    ap: float
    ap50: float
    ap_small: float
    ap_large: float
    ap_by_merging: dict[str, float | None]
    settings: tuple[str, ...]
    """Overrides of the recipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, train, evaluate, write tiling.json, .md and .png; returns the exit code, 2 for an error that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.tiling", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for all runs")
    parser.add_argument("--base", type=Path, default=BASE, help="default %(default)s")
    for name, default, text in (
        ("--size", 3072, "side of the images, pixels"),
        ("--tile", 1024, "side of the tiles, pixels"),
        ("--shrunk", 640, "side of the shrunk images, pixels"),
        ("--train-images", 24, "images to train on"),
        ("--val-images", 8, "images to evaluate on"),
        ("--epochs", 12, "epochs over whole images; the others see as many pixels"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text}; default %(default)s")
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
    if not options.shrunk < options.tile < options.size:
        raise BenchError(
            f"--size {options.size} --tile {options.tile} --shrunk {options.shrunk}: expected the size to be the largest, "
            "then the tile, then the shrunk image"
        )
    root, tiles = _draw(options)
    truth = GroundTruth.of(load_annotated(root, "val"))
    size, images = options.size, options.train_images
    all_plans = plans(root, tiles, size, options.tile, options.shrunk, images)
    pixels = options.epochs * all_plans[0].pixels_per_epoch
    jobs = [_job(options, plan, plan.epochs_for(pixels)) for plan in all_plans]
    rows: list[Row] = []
    measured: list[tuple[Plan, Measured]] = []
    for job in jobs:
        print(f"{job.plan.name}: {job.run.path}", flush=True)
        job.train()
        measured.append((job.plan, job.detect(truth)))
        rows.append(_row(job, measured[-1][1]))
        content = {"setup": _setup(options, truth), "rows": [asdict(row) for row in rows]}
        written = results.write_results(options.out, "tiling", content, markdown(rows))
    figure = draw_picture(truth, measured)
    written = results.write_results(options.out, "tiling", content, markdown(rows), figure)
    print(markdown(rows))
    print("wrote", ", ".join(map(str, written)))


def _draw(options: argparse.Namespace) -> tuple[Path, Path]:
    """Draw the images and cut them into tiles, unless both are there; returns the folders."""
    size, tile = options.size, options.tile
    least, largest = (radius / size for radius in SMALL_RADII)
    settings = DemoSettings(
        options.train_images,
        options.val_images,
        size,
        sizes=(LARGE, ShapeSizes(least, largest, MOST_SMALL)),
        is_textured=True,
    )
    options.data.mkdir(parents=True, exist_ok=True)
    root = options.data / f"large-{size}"
    tiles = options.data / f"large-{size}-tiles-{tile}"
    if generate_demo(root, settings) or not (tiles / MARKER).is_file():
        print(f"cutting {root} into {tiles}", flush=True)
        shutil.rmtree(tiles, ignore_errors=True)
        for split in ("train", "val"):
            write_views(load_annotated(root, split), split, tiles, tile)
        shutil.copy(root / MARKER, tiles / MARKER)
    return root, tiles


def _job(options: argparse.Namespace, plan: Plan, epochs: int) -> Job:
    settings = (
        *(QUIET, "checkpoint.resume=auto", f"data.root={plan.root}"),
        *(f"model.image_size={plan.image_size}", f"train.epochs={epochs}"),
        *(f"train.global_batch={plan.batch}", "train.micro_batch=auto"),
        *(f"evaluation.every_epochs={epochs}", f"checkpoint.every_epochs={epochs}"),
        *options.overrides,
        *(options.whole if plan.name == "whole" else ()),
    )
    return Job(plan, settings, prepare(options.base, settings).resolved)


def _row(job: Job, measured: Measured) -> Row:
    summary = json.loads(job.run.summary.read_text(encoding="utf-8"))
    plan, metrics, train = job.plan, measured.metrics, job.resolved.recipe.train
    figures = {name: getattr(metrics, name) or 0.0 for name in ("ap", "ap50", "ap_small", "ap_large")}
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


def _setup(options: argparse.Namespace, truth: GroundTruth) -> dict[str, object]:
    return {
        "recipe": str(options.base),
        "size": options.size,
        "tile": options.tile,
        "shrunk": options.shrunk,
        "train_images": options.train_images,
        "val_images": len(truth.images),
        "val_boxes": sum(len(image.boxes) for image in truth.images),
        "machine": results.machine_facts(),
    }


def markdown(rows: Sequence[Row]) -> str:
    """A table with one line per approach."""
    tiled = next((row.ap for row in rows if row.trained_on == "tiles"), None)
    cells = [
        (
            *(row.trained_on, f"{row.image_size:,}", row.batch, row.epochs, f"{row.steps:,}"),
            *(f"{row.megapixels:,.0f}", f"{row.wall_seconds:,.0f}"),
            *(f"{ap:.3f}" for ap in (row.ap, row.ap50, row.ap_small, row.ap_large)),
            "" if tiled is None else f"{row.ap - tiled:+.3f}",
        )
        for row in rows
    ]
    merged = [row for row in rows if len(row.ap_by_merging) > 1]
    notes = [
        f"Tiles: merged by {row.merging}, the best of {len(row.ap_by_merging)} ways on these images."
        for row in merged
    ]
    return "\n".join([*results.markdown_table(COLUMNS, cells), "", *notes]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
