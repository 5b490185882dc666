"""Host memory that MPI reads and writes for tensors, wherever these lie."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Tensors = Sequence[torch.Tensor]
Finish = Callable[[], Any]
"""What is done once an operation has ended; its result is the operation's."""


def on_host(tensor: torch.Tensor, apart_from: Tensors = ()) -> torch.Tensor:
    """The tensor itself if MPI can use its memory, else a copy; also if it shares memory with others."""
    storages = {other.untyped_storage().data_ptr() for other in apart_from}
    host = tensor.detach().cpu().contiguous()
    return host.clone() if host.untyped_storage().data_ptr() in storages else host


def room_on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if MPI can write to it, else new memory like it."""
    if tensor.device.type == "cpu" and tensor.is_contiguous():
        return tensor.detach()
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def joined(tensors: Tensors, apart_from: Tensors = ()) -> torch.Tensor:
    """All elements one after another."""
    if len(tensors) == 1:
        return on_host(tensors[0], apart_from)
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).cpu()


def joined_room(tensors: Tensors) -> torch.Tensor:
    """Memory for all elements one after another."""
    if len(tensors) == 1:
        return room_on_host(tensors[0])
    return torch.empty(sum(tensor.numel() for tensor in tensors), dtype=tensors[0].dtype)


def split(tensors: Tensors, whole: torch.Tensor) -> list[torch.Tensor]:
    """Copy elements that lie one after another to tensors."""
    parts = whole.reshape(-1).split([tensor.numel() for tensor in tensors])
    return copied(tensors, [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])()


def copied(tensors: Tensors, hosts: Tensors) -> Callable[[], list[torch.Tensor]]:
    """Copy what was received to its tensors, if it lies elsewhere."""

    def finish() -> list[torch.Tensor]:
        for tensor, host in zip(tensors, hosts, strict=True):
            if tensor.data_ptr() != host.data_ptr():
                tensor.detach().copy_(host)
                if tensor.is_cuda:
                    torch.cuda.current_stream(tensor.device).synchronize()
        return list(tensors)

    return finish


def keeping(buffers: Sequence[torch.Tensor | None], finish: Finish) -> Finish:
    """Keep buffers until then."""

    def kept() -> Any:
        del held[:]
        return finish()

    held = list(buffers)
    return kept
