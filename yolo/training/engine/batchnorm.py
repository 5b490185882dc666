"""BatchNorm's running statistics: read, put back after a skipped step, estimated for averaged weights."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from yolo.communication.coalesced import all_reduce_mean


def batchnorm_statistics(model: nn.Module) -> list[torch.Tensor]:
    """BatchNorm's running means and variances."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in (module.running_mean, module.running_var)
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


def estimate_statistics(
    model: nn.Module, inputs: Iterable[torch.Tensor], dtype: torch.dtype
) -> None:
    """Replace the running statistics by their mean over batches of all ranks; collective.

    `inputs` are this rank's batches (B, 3, S, S), one at least, on the network's device, computed in autocast to `dtype`
    unless that is fp32. The same number on each rank counts each batch alike.
    """
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        update_bn(inputs, model)
    all_reduce_mean(batchnorm_statistics(model))
