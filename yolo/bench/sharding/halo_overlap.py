"""Would it pay to send a halo while the inner columns are computed? What is waited for, and what splitting costs.

`deepspeed --num_accelerators 2 --module yolo.bench.sharding.halo_overlap --pixels 1536`: for every layer that reads a halo, the
forward pass's exchange, the layer on its whole stripe, and the layer as its inner columns and both edges, one by one.
Overlap saves at most the exchange, and costs the difference of the other two.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import deepspeed.comm as dist
import torch
from torch import Tensor, nn

from yolo.bench.sharding.memory import CLASSES, RECIPE
from yolo.calibration.stopwatch import seconds_per_call
from yolo.communication.sharding.columns import across, halo_of, shard_columns
from yolo.communication.sharding.halo import with_halo
from yolo.communication.sharding.halo_size import Halo
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.engine.distributed import (
    DistributedContext,
    all_gather_object,
    init_distributed,
    shutdown_distributed,
)


@dataclass(frozen=True, slots=True)
class HaloSeconds:
    """Seconds of a forward pass in all layers that read a halo, means over the ranks."""

    layers: int
    exchange: float
    """With the copy of the stripe into its padded form."""
    whole: float
    """The layers on their padded stripes."""
    parts: float
    """The same, as inner columns and two edges."""


def in_parts(layer: nn.Conv2d | nn.MaxPool2d, padded: Tensor, halo: Halo) -> Tensor:
    """What a sharded layer makes of a stripe (B, C, H, W) with its halo: first the inner columns, which need none of it."""
    kernel, stride = across(layer.kernel_size), across(layer.stride)
    outputs = (padded.shape[3] - kernel) // stride + 1
    first = min(outputs, -(-halo.left // stride))
    last = max(first, (padded.shape[3] - halo.right - kernel) // stride + 1)

    def columns(begin: int, end: int) -> list[Tensor]:
        read = padded[..., begin * stride : (end - 1) * stride + kernel]
        return [layer.forward(read)] if begin < end else []  # without the hook that exchanges

    inner = columns(first, last)
    return torch.cat([*columns(0, first), *inner, *columns(last, outputs)], dim=3)


@torch.no_grad()
def measure(
    variant: str, pixels: int, images: int, rounds: int, context: DistributedContext
) -> HaloSeconds:
    """Time each layer `rounds` times; collective."""
    columns, device = context.columns, context.device
    model = YOLOv5(variant, CLASSES).to(device).eval()
    halos = {layer: halo for layer in model.modules() if (halo := halo_of(layer))}
    shard_columns(model, columns)
    stripes: list[tuple[Any, Tensor]] = []
    for layer in halos:
        layer.register_forward_pre_hook(
            lambda layer, inputs: stripes.append((layer, inputs[0])), prepend=True
        )
    model(columns.stripe(torch.rand(images, 3, pixels, pixels, device=device)))
    seconds = [_seconds(layer, stripe, halos[layer], rounds, context) for layer, stripe in stripes]
    of_ranks = all_gather_object(context, [sum(each) for each in zip(*seconds, strict=True)])
    return HaloSeconds(len(stripes), *map(mean, zip(*of_ranks, strict=True)))


def _seconds(
    layer: Any, stripe: Tensor, halo: Halo, rounds: int, context: DistributedContext
) -> list[float]:
    """Of the exchange, the layer and the layer in parts: medians."""
    padded = with_halo(stripe, halo, context.columns)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: with_halo(stripe, halo, context.columns),
        lambda: layer.forward(padded),
        lambda: in_parts(layer, padded, halo),
    )
    found = []
    for call in calls:
        dist.barrier()
        found.append(median([seconds_per_call(call, context.device) for _ in range(rounds)]))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on all ranks, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m yolo.bench.sharding.halo_overlap", description=__doc__
    )
    parser.add_argument("--variant", default="n")
    parser.add_argument("--pixels", type=int, default=1536)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the seconds here, as JSON")
    parser.add_argument("--local_rank", help="given by the launcher")
    options = parser.parse_args(arguments)
    ranks = int(os.environ["WORLD_SIZE"])
    recipe = prepare(RECIPE, [f"sharding.columns={ranks}", "model.image_size=1024"], ranks)
    context = init_distributed(recipe.resolved.recipe)
    found = measure(options.variant, options.pixels, options.images, options.rounds, context)
    if context.is_main:
        print(
            f"yolov5{options.variant}, {options.images} x {options.pixels} pixels, {ranks} columns, {found.layers} layers, forward: "
            f"exchange {found.exchange * 1e3:.1f} ms; layers {found.whole * 1e3:.1f} ms whole, {found.parts * 1e3:.1f} in parts"
        )
        if options.out is not None:
            options.out.write_text(json.dumps(asdict(found)))
    shutdown_distributed()


if __name__ == "__main__":
    main()
