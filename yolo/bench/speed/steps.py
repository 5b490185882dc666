"""Time a training step without image loading: ours and the baseline's, alternating, on the launcher's only rank."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from yolo.architecture import family
from yolo.bench.baseline.training import PlainStep
from yolo.bench.command_line import recipe_parser
from yolo.bench.results import write_json
from yolo.calibration.stopwatch import Stopwatch
from yolo.calibration.synthetic_step import synthetic_targets
from yolo.data.loader.samples import to_network
from yolo.errors import exit_code_of
from yolo.model import YOLOv5
from yolo.model.loss import Normaliser, detection_loss
from yolo.recipe import prepare
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.build import start_engine
from yolo.training.engine.distributed import (
    DistributedContext,
    init_distributed,
    local_world_size_from_launcher,
    shutdown_distributed,
    world_size_from_launcher,
)
from yolo.training.engine.ema import ModelEMA
from yolo.training.loop.auto_precision import TORCH_DTYPES, measure_precision

CLASSES = 3
BOXES_PER_IMAGE = 8
WARM_UP = 2
MATRIX = 8192
"""Side of the matrices whose product measures a GPU's peak rate."""


class OurStep:
    """The training loop's step on one rank."""

    def __init__(self, recipe: Recipe, ranks: DistributedContext) -> None:
        plain = YOLOv5(recipe.model.variant, CLASSES)
        self.criterion = detection_loss(plain, recipe)
        self.device = ranks.device
        self.dtype = TORCH_DTYPES[recipe.precision.dtype]
        self.engine = start_engine(plain, recipe, ranks)
        self.average = ModelEMA(self.engine.module, recipe.train)

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, watch: Stopwatch
    ) -> torch.Tensor:
        """Take a step on images (B, 3, S, S) uint8 and targets (M, 6); returns the loss, still on the device."""
        assignment = self.criterion.assign(targets, images.shape)
        matches = assignment.matches.to(self.device, torch.float32, non_blocking=True)
        predictions = self.engine(to_network(images, self.device, self.dtype))
        assignment = assignment.to(self.device, non_blocking=True)
        loss, parts = self.criterion(predictions, assignment, Normaliser(matches, len(images), 1))
        watch.stop("forward and loss")
        self.engine.backward(loss)
        watch.stop("backward")
        self.engine.step()
        self.average.update()
        watch.stop("optimizer and average")
        return parts.stacked()


class Unwatched(Stopwatch):
    """Lets a GPU run ahead: parts are not timed."""

    def stop(self, part: str) -> None:
        """Do not wait for the GPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write JSON; returns the exit code."""
    parser = recipe_parser("yolo.bench.speed.steps", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="per round and side")
    parser.add_argument("--out", type=Path, required=True)
    options, _ = parser.parse_known_args(arguments)
    return exit_code_of(lambda: _measure(options), "bench")


def _measure(options: argparse.Namespace) -> None:
    world_size, local_world_size = world_size_from_launcher(), local_world_size_from_launcher()
    prepared = prepare(options.recipe, options.overrides, world_size, local_world_size)
    resolved = prepared.resolved
    recipe = resolved.recipe
    ranks = init_distributed(recipe)
    reason = f"precision {recipe.precision.dtype}, as the recipe says"
    if resolved.loaded.recipe.precision.dtype == "auto":
        choice = measure_precision(recipe, ranks, lambda _: True)
        reason = choice.reason
        recipe = prepared.with_values(f"precision.dtype={choice.dtype}").resolved.recipe
    torch.manual_seed(0)
    images, targets = _synthetic_batch(recipe)
    sides: dict[str, Any] = {
        "ours": OurStep(recipe, ranks),
        "baseline": PlainStep(recipe, CLASSES, family(recipe.model.variant).anchors, ranks.device),
    }
    # The memory format of each side's loader: channels last, and contiguous.
    batches = {"ours": images, "baseline": images.contiguous()}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    parts: dict[str, dict[str, float]] = {}
    is_gpu = ranks.device.type == "cuda"
    memory = {}  # bytes of tensors at the peak
    for side, step in sides.items():
        if is_gpu:
            torch.cuda.reset_peak_memory_stats(ranks.device)
        for _ in range(WARM_UP):
            step(batches[side], targets, Stopwatch(ranks.device))
        memory[side] = torch.cuda.max_memory_allocated(ranks.device) if is_gpu else None
    for _ in range(options.rounds):
        for side, step in sides.items():
            watch, unwatched = Stopwatch(ranks.device), Unwatched(ranks.device)
            watch.start()
            for _ in range(options.steps):
                step(batches[side], targets, unwatched)
            watch.stop("round")
            rates[side].append(len(images) * options.steps / watch.seconds["round"])
    for side, step in sides.items():
        watch = Stopwatch(ranks.device)
        for _ in range(options.steps):
            watch.start()
            step(batches[side], targets, watch)
        parts[side] = {part: value / options.steps for part, value in watch.seconds.items()}
    gpu = _gpu_facts(recipe, ranks.device, max(rates["ours"])) if is_gpu else {}
    found = {
        "precision": reason,
        "images_per_second": rates,
        "step_seconds": parts,
        "peak_memory_bytes": memory,
        "gpu": gpu,
    }
    write_json(options.out, found)
    shutdown_distributed()


def _synthetic_batch(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise, and boxes."""
    batch, size = recipe.train.global_batch, recipe.model.image_size
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=generator)
    targets = synthetic_targets(batch, BOXES_PER_IMAGE, CLASSES, generator)
    return images.permute(0, 3, 1, 2), targets


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
