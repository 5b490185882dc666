"""Collectives that send nothing, so that only a rank's local work remains of a step.

Each collective completes at once, whether it is waited for or not. A strategy still computes, packs and copies around it;
meanwhile the ranks diverge.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from typing import Any

import torch
from torch._C._distributed_c10d import GradBucket
from torch.distributed import P2POp

from yolo.communication.metering.meter import Collective, replace_collectives


def muted_collectives() -> ExitStack:
    """Until the result is closed, torch's collectives fill their outputs from this rank's own inputs.

    Outputs are finite and of the right shape, but useless for training. C++ reducers bypass it: see `hand_back`.
    """
    return replace_collectives(_muted)


def hand_back(_: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A communication hook that does the same for DistributedDataParallel."""
    return _done(bucket.buffer())


def _muted(_: Collective, original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @wraps(original)
    def fill_outputs(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if "p2p_op_list" in given:
            return _muted_messages(given["p2p_op_list"])
        output = given.get("output_tensor", given.get("output"))
        source = given.get("input_tensor", given.get("input"))
        if isinstance(output, torch.Tensor) and isinstance(source, torch.Tensor):
            _fill(output.view(-1), source.reshape(-1))
        result = output if isinstance(output, torch.Tensor) else given["tensor"]
        return _MutedWork(result) if given.get("async_op") else None

    return fill_outputs


def _muted_messages(operations: Sequence[P2POp]) -> list["_MutedWork"]:
    """What a rank would receive is 0."""
    for operation in operations:
        if operation.op is torch.distributed.irecv:
            operation.tensor.zero_()
    return [_MutedWork(operation.tensor) for operation in operations]


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
