"""Many small tensors in one collective: latency is paid once."""

from collections.abc import Sequence

import deepspeed.comm as dist
import torch


def average_over_ranks(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each floating-point tensor by its mean over the ranks, in place; one all-reduce in fp32."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if not floating or dist.get_world_size() == 1:
        return
    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in floating])
    dist.all_reduce(flat)
    _copy_back(flat / dist.get_world_size(), floating)


def broadcast_from_first(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by the first rank's, in place; one broadcast of all bytes."""
    if not tensors or dist.get_world_size() == 1:
        return
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


def _copy_back(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    for tensor, piece in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(piece.view_as(tensor))
