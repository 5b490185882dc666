"""Collectives that send nothing: what is left of a step is what a rank does by itself.

Each collective is over at once, whether it is waited for or not. What a strategy computes, packs and copies around it is
done as ever; ranks go their own ways meanwhile.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import deepspeed.comm.comm as deepspeed_comm
import torch
from torch._C._distributed_c10d import GradBucket
from torch.distributed import distributed_c10d

from yolo.communication.metering.meter import COLLECTIVES


@contextmanager
def muted_collectives() -> Iterator[None]:
    """Within, torch's collectives fill their outputs from this rank's own inputs.

    What they make is finite and of the right shape, and otherwise nothing to train with. C++ reducers go past it.
    """
    muted = {
        id(original): _muted(original)
        for name in COLLECTIVES
        if (original := getattr(distributed_c10d, name, None)) is not None
    }
    replaced = []
    for holder in (torch.distributed, distributed_c10d, deepspeed_comm.cdb):
        for name, value in list(getattr(holder, "__dict__", {}).items()):
            if id(value) in muted:
                replaced.append((holder, name, value))
                setattr(holder, name, muted[id(value)])
    try:
        yield
    finally:
        for holder, name, original in replaced:
            setattr(holder, name, original)


def hand_back(_: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The same for DistributedDataParallel: a communication hook."""
    return _done(bucket.buffer())


def _muted(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @wraps(original)
    def muted(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        output = given.get("output_tensor", given.get("output"))
        source = given.get("input_tensor", given.get("input"))
        if isinstance(output, torch.Tensor) and isinstance(source, torch.Tensor):
            _fill(output.view(-1), source.reshape(-1))
        result = output if isinstance(output, torch.Tensor) else given["tensor"]
        return _MutedWork(result) if given.get("async_op") else None

    return muted


def _fill(output: torch.Tensor, source: torch.Tensor) -> None:
    """A gathered output holds the own part again and again; a scattered one is the first part of the input."""
    if len(output) > len(source):
        output.view(-1, len(source)).copy_(source.expand(len(output) // len(source), -1))
    else:
        output.copy_(source[: len(output)])


class _MutedWork:
    """A collective under way that is over."""

    def __init__(self, result: torch.Tensor) -> None:
        self._result = result

    def wait(self, *_: Any) -> bool:
        """Of nothing."""
        return True

    def is_completed(self) -> bool:
        """From the start."""
        return True

    def get_future(self) -> Any:
        """Of what the collective would have made."""
        return _done([self._result])


def _done(value: Any) -> Any:
    future: torch.futures.Future[Any] = torch.futures.Future()
    future.set_result(value)
    return future
