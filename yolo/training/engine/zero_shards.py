"""Parameters, of which a rank holds a shard under ZeRO stage 3, and their full tensors.

DeepSpeed's `safe_get_full_fp32_param` gathers one parameter per collective; here all are gathered in one.
"""

from collections.abc import Sequence
from typing import Any

import torch

from yolo.communication.coalesced import gather_flat


def local_shard(parameter: Any) -> torch.Tensor:
    """What this rank holds of a parameter: all of it, or under stage 3 its shard (flat, padded to equal sizes)."""
    mine: torch.Tensor = getattr(parameter, "ds_tensor", parameter).detach()
    return mine


def gather_full(parameters: Sequence[Any], mine: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The full tensors, from what each rank holds (`local_shard`); collective under stage 3."""
    if not hasattr(parameters[0], "ds_tensor"):
        return list(mine)
    gathered = gather_flat(mine)
    return [
        pieces.reshape(-1)[: parameter.ds_numel].view(parameter.ds_shape)
        for parameter, pieces in zip(parameters, gathered, strict=True)
    ]


def shard(parameter: Any, full: torch.Tensor) -> torch.Tensor:
    """This rank's part of a full tensor, in the form in which it holds the parameter."""
    if not hasattr(parameter, "ds_tensor"):
        return full
    size = parameter.ds_tensor.numel()
    start = torch.distributed.get_rank() * size
    padded = full.new_zeros(size * torch.distributed.get_world_size())
    padded[: full.numel()] = full.reshape(-1)
    return padded[start : start + size]
