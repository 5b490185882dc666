"""Where figures stop being finite: which weights, which layer, on which images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from yolo.data.loader.samples import TrainingBatch, to_network
from yolo.training.engine.distributed import DistributedContext, all_gather_object
from yolo.training.engine.zero_shards import local_shard

NAMED = 3
"""Weights or images that are named before it says how many more there are."""


@torch.no_grad()
def diagnosis(
    engine: Any,
    micro_batches: Sequence[TrainingBatch],
    names: Sequence[str],
    dtype: torch.dtype,
    ranks: DistributedContext,
) -> str:
    """What of a step is not finite, in a few words; collective. `names` are of this rank's images."""
    module: nn.Module = engine.module
    spoilt = [
        name for name, p in module.named_parameters() if not bool(local_shard(p).isfinite().all())
    ]
    layers = []
    for batch in micro_batches:
        layer = first_layer_not_finite(engine, to_network(batch.images, ranks.device, dtype))
        layers += [layer] if layer is not None else []
    mine = ""
    if spoilt:
        mine = f"the weights {_listed(spoilt)} are not finite"
    elif layers:
        mine = f"the first output that is not finite is that of {layers[0]}"
    said = [
        f"rank {rank}: {what}, images {_listed(images)}"
        for rank, (what, images) in enumerate(all_gather_object(ranks, (mine, list(names))))
        if what
    ]
    every = [name for _, images in all_gather_object(ranks, (mine, list(names))) for name in images]
    return "; ".join(said) or (
        f"all weights and outputs are finite, so it is the loss or its gradient that is not; images {_listed(every)}"
    )


@torch.no_grad()
def first_layer_not_finite(model: Any, images: torch.Tensor) -> str | None:
    """The name and kind of the first layer whose output has a NaN or an infinity; None where all are finite."""
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
    if not bool(
        images.isfinite().all()
    ):  # after the forward, in which ranks may wait for each other
        return "the images themselves"
    return found[0] if found else None


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
