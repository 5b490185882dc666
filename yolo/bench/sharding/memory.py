"""Peak memory of a forward and backward pass per rank, if its images' columns are spread over all ranks.

`deepspeed --num_accelerators 2 --module yolo.bench.sharding.memory --pixels 1536`; the first rank prints the largest of
all ranks. On CPUs it is the resident memory, as Linux counts it, without what the C library keeps of freed memory.
"""

import argparse
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import deepspeed.comm as dist
import torch
from torch import nn

from yolo.calibration.synthetic_step import synthetic_batch
from yolo.communication.sharding.batchnorm import SharedBatchNorm2d
from yolo.communication.sharding.columns import shard_columns
from yolo.data.loader.samples import to_network
from yolo.model import YOLOv5
from yolo.model.loss import DetectionLoss, Normaliser
from yolo.recipe import prepare
from yolo.training.engine.distributed import (
    DistributedContext,
    init_distributed,
    shutdown_distributed,
)

RECIPE = "recipes/demo.yaml"
CLASSES = 80
SETTLING_CELLS = 2
"""Cells of the coarsest level per stripe in the first pass, which allocates gradients and loads libraries."""
M_MMAP_THRESHOLD = -3
"""A parameter of mallopt(3): from which size memory comes from the system, and goes back to it when it is freed."""
MAPPED_BYTES = 1 << 16


class PeakMemory:
    """Bytes above those in use when it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
            self.before = _resident("VmRSS")

    def bytes(self) -> int:
        """Up to now."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _resident("VmHWM") - self.before


def peak_of_pass(variant: str, pixels: int, images: int, context: DistributedContext) -> int:
    """Bytes of one forward and backward pass on this rank's columns of `images` square images, in fp32; collective."""
    columns, device = context.columns, context.device
    torch.manual_seed(0)
    model = YOLOv5(variant, CLASSES).to(device)
    if columns.count > 1:
        SharedBatchNorm2d.convert(model, columns.group)
        shard_columns(model, columns)
    loss = DetectionLoss(model.anchors, model.stride, CLASSES, pixels)
    _pass(model, loss, SETTLING_CELLS * model.stride[-1] * columns.count, images, context)
    peak = PeakMemory(device)
    _pass(model, loss, pixels, images, context)
    return peak.bytes()


def _pass(
    model: nn.Module, loss: DetectionLoss, pixels: int, images: int, context: DistributedContext
) -> None:
    columns = context.columns
    batch = synthetic_batch(images, pixels, 4, CLASSES, seed=1)
    target = loss.assign(batch.targets, batch.images.shape).to(context.device)
    shared = Normaliser(target.matches, images, shards=1)
    outputs = model(columns.stripe(to_network(batch.images, context.device)))
    total, _ = loss(outputs, target.stripe(columns.index, columns.count), shared)
    total.backward()


def _return_freed_memory() -> None:
    """Freed tensors leave this process at once from here on; else its size depends on where they lay."""
    if not ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES):
        raise OSError("mallopt failed; on CPUs, memory is measured with glibc")


def _resident(field: str) -> int:
    """A line of this process's memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on all ranks, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m yolo.bench.sharding.memory", description=__doc__
    )
    parser.add_argument("--variant", default="n")
    parser.add_argument("--pixels", type=int, default=1536)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the megabytes here")
    parser.add_argument("--local_rank", help="given by the launcher")
    options = parser.parse_args(arguments)
    _return_freed_memory()
    ranks = int(os.environ["WORLD_SIZE"])
    recipe = prepare(RECIPE, [f"sharding.columns={ranks}", "model.image_size=1024"], ranks)
    context = init_distributed(recipe.resolved.recipe)
    peak = peak_of_pass(options.variant, options.pixels, options.images, context)
    most = torch.tensor(peak, device=context.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    if context.is_main:
        megabytes = int(most) / 1e6
        print(
            f"yolov5{options.variant}, {options.images} x {options.pixels} pixels, {ranks} columns: {megabytes:.0f} MB per rank"
        )
        if options.out is not None:
            options.out.write_text(f"{megabytes:.1f}\n")
    shutdown_distributed()


if __name__ == "__main__":
    main()
