"""Many small tensors in one collective: latency is paid once."""

from collections.abc import Sequence

import deepspeed.comm as dist
import torch

BROADCAST_BYTES = 64 * 2**20
"""Enough to pay latency once in a while only; more would double a large network's memory for the copy."""


def all_reduce_mean(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each floating-point tensor by its mean over the ranks, in place; one all-reduce in fp32."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if not floating or dist.get_world_size() == 1:
        return
    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in floating])
    dist.all_reduce(flat)
    _copy_back(flat / dist.get_world_size(), floating)


def broadcast_coalesced(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by the first rank's, in place; one broadcast for each 64 MiB of them."""
    if dist.get_world_size() == 1:
        return
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= BROADCAST_BYTES:
            _broadcast_together(bucket)
            bucket, size = [], 0
    if bucket:
        _broadcast_together(bucket)


def _broadcast_together(tensors: Sequence[torch.Tensor]) -> None:
    pieces = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    flat = torch.cat(pieces)
    dist.broadcast(flat, 0)
    for tensor, piece in zip(tensors, flat.split([piece.numel() for piece in pieces]), strict=True):
        # A copy, because a piece may start where its type's alignment does not allow a view.
        tensor.detach().copy_(piece.clone().view(tensor.dtype).view_as(tensor))


def gather_flat(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Every rank's shards put together: for shards of shape (S_i,), tensors of shape (world_size, S_i); one all-gather."""
    sizes = [tensor.numel() for tensor in tensors]
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    gathered = flat.new_empty(dist.get_world_size() * flat.numel())
    dist.all_gather_into_tensor(gathered, flat)
    return list(gathered.view(dist.get_world_size(), -1).split(sizes, dim=1))


def copy_gradients(parameters: Sequence[torch.Tensor], views: Sequence[torch.Tensor]) -> None:
    """Copy each parameter's gradient into its view of a vector; one that is missing counts as 0."""
    found = []
    for parameter, view in zip(parameters, views, strict=True):
        if parameter.grad is None:
            view.zero_()
        else:
            found.append((view, parameter.grad))
    torch._foreach_copy_([view for view, _ in found], [gradient for _, gradient in found])


def _copy_back(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    for tensor, piece in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(piece.view_as(tensor))
