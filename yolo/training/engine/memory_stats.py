"""Memory of a rank's tensors by part, counted on the live network and optimizer."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

MASTER_COPIES = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
ONE_BIT_VECTORS = ("momentum", "variance", "update", "denominator", "accumulated")
REDUCED_GRADIENTS = (
    "averaged_gradients",
    "_DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition",
)
"""Attributes of DeepSpeed's sharded optimizers and of this package's optimizers."""


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the memory behind some tensors; memory that several share counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of the parameters that this rank holds: under stage 3 its shards, and the parameters it keeps in full."""
    parameters = list(model.parameters())
    shards = [p.ds_tensor for p in parameters if hasattr(p, "ds_tensor")]
    full = [p.data for p in parameters if p.numel()]
    return storage_bytes([*shards, *full])


def optimizer_bytes(optimizer: Any) -> int:
    """Bytes of moments, master copies, and the further vectors of a 1-bit optimizer."""
    tensors = list(tensors_in(dict(getattr(optimizer, "optimizer", optimizer).state)))
    for name in MASTER_COPIES:
        tensors += list(getattr(optimizer, name, ()))
    for name in ONE_BIT_VECTORS:
        if isinstance(vector := getattr(optimizer, name, None), torch.Tensor):
            tensors.append(vector)
    return storage_bytes(tensors)


def gradient_bytes(model: nn.Module, optimizer: Any) -> int:
    """Bytes of gradients, full or sharded; to be called between backward and the optimizer's step."""
    tensors = [p.grad for p in model.parameters() if p.grad is not None]
    for name in REDUCED_GRADIENTS:
        tensors += list(tensors_in(getattr(optimizer, name, None)))
    return storage_bytes(tensors)


def tensors_in(holder: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested dictionaries and lists."""
    if isinstance(holder, torch.Tensor):
        yield holder
    elif isinstance(holder, dict):
        for value in holder.values():
            yield from tensors_in(value)
    elif isinstance(holder, list | tuple):
        for value in holder:
            yield from tensors_in(value)
