"""Locates non-finite values: which weights, which layer, on which images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from yolo.data.loader.samples import TrainingBatch, to_network
from yolo.training.engine.distributed import DistributedContext, all_gather_object
from yolo.training.engine.zero_shards import local_shard

NAMED = 3
"""Weights or images named in a message; the others are counted."""


@torch.no_grad()
def diagnosis(
    engine: Any,
    batch: Sequence[TrainingBatch],
    names: Sequence[str],
    dtype: torch.dtype,
    context: DistributedContext,
) -> str:
    """What is not finite in a step, in one sentence; collective. `names` are of this rank's images."""
    module: nn.Module = engine.module
    bad_weights = [
        name for name, p in module.named_parameters() if not bool(local_shard(p).isfinite().all())
    ]
    layers = []
    for micro_batch in batch:
        images = to_network(micro_batch.images, context.device, dtype)
        layer = first_layer_not_finite(engine, images)
        layers += [layer] if layer is not None else []
    mine = ""
    if bad_weights:
        mine = f"the weights {_listed(bad_weights)} are not finite"
    elif layers:
        mine = f"the first output that is not finite is that of {layers[0]}"
    found = all_gather_object(context, (mine, list(names)))
    reports = [
        f"rank {rank}: {what}, images {_listed(images)}"
        for rank, (what, images) in enumerate(found)
        if what
    ]
    every = [name for _, images in found for name in images]
    return "; ".join(reports) or (
        f"all weights and outputs are finite, so the loss or its gradient is not; images {_listed(every)}"
    )


@torch.no_grad()
def first_layer_not_finite(model: Any, images: torch.Tensor) -> str | None:
    """The name and kind of the first layer whose output has a NaN or an infinity; None if all are finite."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, _: Any, output: Any) -> None:
            if not found and isinstance(output, torch.Tensor) and not output.isfinite().all():
                found.append(f"{name} ({type(layer).__name__})")

        return hook

    inner: nn.Module = getattr(model, "module", model)
    leaves = [(name, layer) for name, layer in inner.named_modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(watch(name)) for name, layer in leaves]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    # After the forward, in which ranks may wait for each other.
    if not bool(images.isfinite().all()):
        return "the images themselves"
    return found[0] if found else None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
