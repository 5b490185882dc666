"""Time a training step without image loading: ours and the baseline's, alternating, on the launcher's only rank."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from yolo.architecture import family
from yolo.bench.baseline.training import PlainStep
from yolo.bench.command_line import recipe_parser
from yolo.bench.results import write_json
from yolo.bench.speed.speed_ratios import PARTS
from yolo.calibration.stopwatch import Stopwatch, Unwatched
from yolo.calibration.strategies import Strategy
from yolo.calibration.synthetic_step import SyntheticTraining, TimingJob, synthetic_batch
from yolo.data.loader.samples import TrainingBatch
from yolo.errors import exit_code_of
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import (
    DistributedContext,
    init_distributed,
    shutdown_distributed,
)
from yolo.training.engine.launched import local_world_size_from_launcher, world_size_from_launcher
from yolo.training.loop.auto_precision import measure_precision
from yolo.training.loop.step import StepPart

CLASSES = 3
BOXES_PER_IMAGE = 8
WARM_UP = 2
MATRIX = 8192
"""Side of the matrices whose product measures a GPU's peak rate."""
AS_WRITTEN = Strategy("as_written", "as written")
NAMES: dict[str, str] = dict(zip(StepPart, PARTS[1:], strict=True))
"""The parts of our step, named as the baseline's."""
Step = Callable[[Stopwatch], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write JSON; returns the exit code."""
    parser = recipe_parser("yolo.bench.speed.steps", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="per round and side")
    parser.add_argument("--out", type=Path, required=True)
    options, _ = parser.parse_known_args(arguments)
    return exit_code_of(lambda: _measure(options), "bench")


def _measure(options: argparse.Namespace) -> None:
    sizes = world_size_from_launcher(), local_world_size_from_launcher()
    prepared = prepare(options.recipe, options.overrides, *sizes)
    recipe = prepared.resolved.recipe
    ranks = init_distributed(recipe)
    reason = f"precision {recipe.precision.dtype}, as the recipe says"
    if prepared.resolved.loaded.recipe.precision.dtype == "auto":
        choice = measure_precision(recipe, ranks, lambda _: True)
        reason = choice.reason
        prepared = prepared.with_values(f"precision.dtype={choice.dtype}")
        recipe = prepared.resolved.recipe
    sides = _sides(TimingJob(prepared, CLASSES), ranks)
    is_gpu = ranks.device.type == "cuda"
    memory = {}  # bytes of tensors at the peak
    for side, step in sides.items():
        if is_gpu:
            torch.cuda.reset_peak_memory_stats(ranks.device)
        for _ in range(WARM_UP):
            step(Unwatched(ranks.device))
        memory[side] = torch.cuda.max_memory_allocated(ranks.device) if is_gpu else None
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, step in sides.items():
            watch, unwatched = Stopwatch(ranks.device), Unwatched(ranks.device)
            watch.start()
            for _ in range(options.steps):
                step(unwatched)
            watch.stop("round")
            images = recipe.train.global_batch * options.steps
            rates[side].append(images / watch.seconds["round"])
    parts: dict[str, dict[str, float]] = {}
    for side, step in sides.items():
        watch = Stopwatch(ranks.device)
        for _ in range(options.steps):
            watch.start()
            step(watch)
        parts[side] = {
            NAMES.get(part, part): value / options.steps for part, value in watch.seconds.items()
        }
    found = {
        "precision": reason,
        "images_per_second": rates,
        "step_seconds": parts,
        "peak_memory_bytes": memory,
        "gpu": _gpu_facts(recipe, ranks.device, max(rates["ours"])) if is_gpu else {},
    }
    write_json(options.out, found)
    shutdown_distributed()


def _sides(job: TimingJob, ranks: DistributedContext) -> dict[str, Step]:
    """Both sides' step on the same images, which are copied to the device in each step.

    The memory format is that of each side's loader: channels last, and contiguous.
    """
    recipe = job.recipe
    micro_batch, image_size = recipe.train.micro_batch, recipe.model.image_size
    shape = recipe.train.global_batch, image_size
    drawn = synthetic_batch(*shape, BOXES_PER_IMAGE, CLASSES, seed=1)
    targets = drawn.targets.clone()
    targets[:, 0] %= micro_batch
    parts = drawn.images.split(micro_batch), targets.split(micro_batch * BOXES_PER_IMAGE)
    training = SyntheticTraining(AS_WRITTEN, job, ranks, batch=[*map(TrainingBatch, *parts)])

    def take_our_step(watch: Stopwatch) -> None:
        training.step(watch)
        training.state.ema.update()
        watch.stop(StepPart.UPDATE)

    plain = PlainStep(recipe, CLASSES, family(recipe.model.variant).anchors, ranks.device)
    pixels = drawn.images.contiguous()
    return {
        "ours": take_our_step,
        "baseline": lambda watch: plain(pixels, drawn.targets, watch),
    }


def _gpu_facts(recipe: Recipe, device: torch.device, images_per_second: float) -> dict[str, Any]:
    """The GPU's name, and the step's share of the rate of a large bf16 matrix product."""
    size = recipe.model.image_size
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model = YOLOv5(recipe.model.variant, CLASSES)
        model(torch.zeros(1, 3, size, size))
    # Backward takes two products for each one of forward.
    operations = 3 * counter.get_total_flops()
    peak = _product_rate(device)
    return {
        "name": torch.cuda.get_device_name(device),
        "operations_per_image": operations,
        "product_operations_per_second": peak,
        "share_of_peak": operations * images_per_second / peak,
    }


def _product_rate(device: torch.device) -> float:
    """Operations per second of a bf16 matrix product, the fastest of 8."""
    a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    fastest = float("inf")
    for _ in range(8):
        watch = Stopwatch(device)
        watch.start()
        _ = a @ b
        watch.stop("product")
        fastest = min(fastest, watch.seconds["product"])
    return 2 * MATRIX**3 / fastest


if __name__ == "__main__":
    sys.exit(main())
