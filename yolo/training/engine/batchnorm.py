"""BatchNorm's running statistics: read, put back after a skipped step, estimated for averaged weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from yolo.communication.coalesced import all_reduce_mean

BatchNorm = nn.modules.batchnorm._BatchNorm


def batchnorm_layers(model: nn.Module) -> list[BatchNorm]:
    """All BatchNorm layers, in the order of `model.modules()`."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def batchnorm_statistics(model: nn.Module) -> list[torch.Tensor]:
    """BatchNorm's running means and variances."""
    return [
        buffer
        for layer in batchnorm_layers(model)
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]


class BatchNormSnapshot:
    """BatchNorm's running statistics before a step, to be restored if the step is skipped."""

    def __init__(self, model: nn.Module) -> None:
        self._current = batchnorm_statistics(model)
        self._saved = [each.clone() for each in self._current]

    def save(self) -> None:
        """Copy the current statistics."""
        torch._foreach_copy_(self._saved, self._current)

    def restore(self) -> None:
        """Put back what `save` copied."""
        torch._foreach_copy_(self._current, self._saved)


@torch.no_grad()
def estimate_statistics(
    model: nn.Module, inputs: Iterable[torch.Tensor], dtype: torch.dtype
) -> None:
    """Replace the running statistics by their mean over batches of all ranks; collective.

    `inputs` are this rank's batches (B, 3, S, S), one at least, computed in autocast to `dtype` unless that is fp32. The
    same number on each rank counts each batch alike. The network is left in evaluation mode.
    """
    with _averaging_over_batches(model):
        for images in inputs:
            with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
                model(images)
    all_reduce_mean(batchnorm_statistics(model))


@contextmanager
def _averaging_over_batches(model: nn.Module) -> Iterator[None]:
    """Start the statistics again; each forward pass has the same weight in them."""
    layers, device = batchnorm_layers(model), next(model.parameters()).device
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = None  # torch's word for a cumulative average
        layer.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=device)
    model.train()
    try:
        yield
    finally:
        model.eval()
        for layer, (momentum, batches) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches
