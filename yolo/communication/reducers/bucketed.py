"""Average gradients bucket by bucket during backward, which DeepSpeed's stage 0 cannot do.

A hook on each parameter runs when its gradient is complete. A full bucket is sent at once, and the network transfers it
while backward computes the remaining gradients (Li et al., "PyTorch Distributed", VLDB 2020, section 3.2.3). Hooks
replace torch's DDP: they are as fast with buckets of the same size (`ddp_small_buckets` in the benchmark), and the engine
keeps the plain module, whose parameter names checkpoints use.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import deepspeed.comm as dist
import torch
from torch import nn

from yolo.communication.coalesced import copy_gradients
from yolo.communication.strategy import DeepSpeedEngine, SyncStrategy

WIRE_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class OverlappedReducer(SyncStrategy):
    """Averages gradients in buckets of `bucket_size` elements, in the order in which backward completes them.

    `data_type` is the type on the wire; the mean is stored in the gradients' own type.
    """

    kind = "overlapped"

    def __init__(self, engine: DeepSpeedEngine, bucket_size: int, data_type: str) -> None:
        engine.enable_backward_allreduce = False
        self.engine = engine
        # Backward begins at the network's end.
        parameters = [p for p in engine.module.parameters() if p.requires_grad][::-1]
        wire_type = WIRE_TYPES[data_type]
        self.buckets = [
            GradientBucket(group, wire_type) for group in grouped(parameters, bucket_size)
        ]
        self._launched = 0
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, bucket))

    def _on_gradient(self, bucket: "GradientBucket", _: nn.Parameter) -> None:
        """Launch all full buckets; ranks must send in the same order, so that a full one waits for those before it."""
        if not self.engine.is_gradient_accumulation_boundary():
            return
        bucket.missing -= 1
        while self._launched < len(self.buckets) and not self.buckets[self._launched].missing:
            self.buckets[self._launched].launch()
            self._launched += 1

    def reduce_gradients(self) -> None:
        """Launch the remaining buckets and wait for all."""
        if not self.engine.is_gradient_accumulation_boundary():
            return
        for bucket in self.buckets[self._launched :]:  # blocked by a parameter without gradient
            bucket.launch()
        for bucket in self.buckets:
            bucket.finish()
        self._launched = 0


class GradientBucket:
    """Parameters whose gradients are sent as one vector."""

    def __init__(self, parameters: Sequence[nn.Parameter], wire_type: torch.dtype) -> None:
        self.parameters = list(parameters)
        sizes = [parameter.numel() for parameter in parameters]
        self.vector = parameters[0].detach().new_zeros(sum(sizes))
        pieces = self.vector.split(sizes)
        self.views = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
        self.wire = self.vector.to(wire_type)
        """The vector itself if it has the wire's type."""
        self.missing = len(self.parameters)
        """Gradients that backward has not completed yet."""
        self._work: Any = None

    def launch(self) -> None:
        """Copy the gradients and start their all-reduce."""
        copy_gradients(self.parameters, self.views)
        self.vector.div_(dist.get_world_size())  # before the sum, which may overflow in fp16
        self.wire.copy_(self.vector)
        self._work = dist.all_reduce(self.wire, async_op=True)

    def finish(self) -> None:
        """Wait for the mean and make it the parameters' gradients."""
        self._work.wait()
        self.vector.copy_(self.wire)
        self.assign_gradients()

    def assign_gradients(self) -> None:
        """Make the views of the vector the parameters' gradients; DeepSpeed drops them after the step."""
        for view, parameter in zip(self.views, self.parameters, strict=True):
            parameter.grad = view
        self.missing = len(self.parameters)


def grouped(parameters: Sequence[nn.Parameter], bucket_size: int) -> list[list[nn.Parameter]]:
    """Consecutive parameters of one type, up to `bucket_size` elements per group; a larger parameter forms its own group."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        if not groups or parameter.numel() > room or parameter.dtype != groups[-1][0].dtype:
            groups.append([])
            room = bucket_size
        groups[-1].append(parameter)
        room -= parameter.numel()
    return groups
