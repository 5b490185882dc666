"""Many small tensors in one collective, which pays the latency once."""

from collections.abc import Sequence
from typing import Any

import deepspeed.comm as dist
import torch

BROADCAST_BYTES = 64 * 2**20
"""Large enough to hide the latency; more would double a large network's memory for the copy."""


def all_reduce_mean(tensors: Sequence[torch.Tensor], group: Any = None) -> None:
    """Replace each floating-point tensor by its mean over the ranks of a group (None: all), in place; one all-reduce in fp32."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    ranks = dist.get_world_size(group)
    if not floating or ranks == 1:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in floating])
    dist.all_reduce(flat, group=group)
    pieces = (flat / ranks).split([tensor.numel() for tensor in floating])
    for tensor, piece in zip(floating, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


def broadcast_coalesced(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by the first rank's, in place; one broadcast per 64 MiB."""
    if dist.get_world_size() == 1:
        return
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor.detach())
        size += tensor.numel() * tensor.element_size()
        if size >= BROADCAST_BYTES:
            _broadcast_bucket(bucket)
            bucket, size = [], 0
    if bucket:
        _broadcast_bucket(bucket)


def _broadcast_bucket(tensors: Sequence[torch.Tensor]) -> None:
    pieces = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    flat = torch.cat(pieces)
    dist.broadcast(flat, 0)
    for tensor, piece in zip(tensors, flat.split([piece.numel() for piece in pieces]), strict=True):
        # A copy, because a piece may start where the alignment of its type does not allow a view.
        tensor.copy_(piece.clone().view(tensor.dtype).view_as(tensor))


def gather_flat(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """All ranks' shards: (world_size, S_i) for each shard of shape (S_i,); one all-gather."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    gathered = flat.new_empty(dist.get_world_size() * flat.numel())
    dist.all_gather_into_tensor(gathered, flat)
    sizes = [tensor.numel() for tensor in tensors]
    return list(gathered.view(dist.get_world_size(), -1).split(sizes, dim=1))


def copy_gradients(parameters: Sequence[torch.Tensor], views: Sequence[torch.Tensor]) -> None:
    """Copy each parameter's gradient into its view of a vector; a missing gradient counts as 0."""
    targets, gradients = [], []
    for parameter, view in zip(parameters, views, strict=True):
        if parameter.grad is None:
            view.zero_()
        else:
            targets.append(view)
            gradients.append(parameter.grad)
    torch._foreach_copy_(targets, gradients)
