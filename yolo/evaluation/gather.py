"""Gather the parts of an evaluation from the ranks that share it."""

from typing import Protocol, TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


class Gather(Protocol):
    """The ranks of an evaluation."""

    rank: int
    world_size: int

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Every rank's value, in the order of ranks, on rank `to`; None on the others. Collective."""


class LocalGather:
    """One process that evaluates all images."""

    rank = 0
    world_size = 1

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Its own value."""
        return [value]


class ProcessGroup:
    """The ranks of torch's default group: gloo, or nccl if each rank has set its CUDA device."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Collective: each rank sends its value, pickled, only to rank `to`."""
        values = [value] * self.world_size if self.rank == to else None  # replaced on arrival
        dist.gather_object(value, values, dst=to)
        return values
