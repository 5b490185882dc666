"""The processes that share an evaluation."""

from typing import Protocol, TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


class Gather(Protocol):
    """Processes that have each seen some of the images."""

    rank: int
    world_size: int

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Every process's value, in the order of ranks, on the process `to`; None on the others. Collective."""


class LocalGather:
    """A process that has seen them all."""

    rank = 0
    world_size = 1

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Its own value."""
        return [value]


class ProcessGroup:
    """The ranks of torch's default group. Right for gloo, and for nccl where each rank has set its CUDA device."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def gather(self, value: Value, to: int) -> list[Value] | None:
        """Collective: each sends its value, pickled, to `to` alone."""
        values: list[Value] | None = None
        if self.rank == to:
            values = [value] * self.world_size  # replaced by what arrives
        dist.gather_object(value, values, dst=to)
        return values
