"""Collectives that send nothing, so that only a rank's local work remains of a step.

Each collective completes at once, whether it is waited for or not. A strategy still computes, packs and copies around it;
meanwhile the ranks diverge.
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
    """Within the context, torch's collectives fill their outputs from this rank's own inputs.

    Outputs are finite and of the right shape, but useless for training. C++ reducers bypass it: see `hand_back`.
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
    """A communication hook that does the same for DistributedDataParallel."""
    return _done(bucket.buffer())


def _muted(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @wraps(original)
    def fill_outputs(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        output = given.get("output_tensor", given.get("output"))
        source = given.get("input_tensor", given.get("input"))
        if isinstance(output, torch.Tensor) and isinstance(source, torch.Tensor):
            _fill(output.view(-1), source.reshape(-1))
        result = output if isinstance(output, torch.Tensor) else given["tensor"]
        return _MutedWork(result) if given.get("async_op") else None

    return fill_outputs


def _fill(output: torch.Tensor, source: torch.Tensor) -> None:
    """A gathered output repeats the rank's own part; a scattered one is the first part of the input."""
    if len(output) > len(source):
        output.view(-1, len(source)).copy_(source.expand(len(output) // len(source), -1))
    else:
        output.copy_(source[: len(output)])


class _MutedWork:
    """The handle of an asynchronous collective that has completed."""

    def __init__(self, result: torch.Tensor) -> None:
        self._result = result

    def wait(self, *_: Any) -> bool:
        """Return at once."""
        return True

    def is_completed(self) -> bool:
        """Always."""
        return True

    def get_future(self) -> Any:
        """A future with the result."""
        return _done([self._result])


def _done(value: Any) -> Any:
    future: torch.futures.Future[Any] = torch.futures.Future()
    future.set_result(value)
    return future
