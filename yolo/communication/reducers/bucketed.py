"""Gradients averaged bucket by bucket while backward goes on: what DeepSpeed's stage 0 lacks.

A hook on each parameter tells when its gradient is complete; a full bucket leaves at once, and the network works while
the rest of the network's gradients are computed (Li et al., "PyTorch Distributed", VLDB 2020, section 3.2.3). Hooks
rather than torch's DDP around the model: as fast with buckets of the same size (`ddp_small_buckets` in the benchmark), and
the engine keeps the plain module, whose names and weights checkpoints know.
"""

from collections.abc import Sequence
from typing import Any

import deepspeed.comm as dist
import torch
from torch import nn

from yolo.communication.coalesced import copy_gradients
from yolo.communication.strategy import DeepSpeedEngine, SyncStrategy

WIRE_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class OverlappedReducer(SyncStrategy):
    """Averages gradients in buckets of `bucket_size` elements, in the order in which backward completes them.

    `data_type` is that of the wire; a mean is always kept in the gradients' own type.
    """

    kind = "overlapped"

    def __init__(self, engine: DeepSpeedEngine, bucket_size: int, data_type: str) -> None:
        engine.enable_backward_allreduce = False
        self.engine = engine
        # Backward begins at the network's end.
        parameters = [p for p in engine.module.parameters() if p.requires_grad][::-1]
        wire_type = WIRE_TYPES[data_type]
        self.buckets = [Bucket(group, wire_type) for group in _grouped(parameters, bucket_size)]
        self._launched = 0
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))

    def _hook(self, bucket: "Bucket") -> Any:
        def complete(_: nn.Parameter) -> None:
            if self.engine.is_gradient_accumulation_boundary():
                bucket.missing -= 1
                if bucket.missing == 0:
                    self._launch_full()

        return complete

    def _launch_full(self) -> None:
        """All ranks must send buckets in one order: a full one waits for those before it."""
        while self._launched < len(self.buckets) and not self.buckets[self._launched].missing:
            self.buckets[self._launched].launch()
            self._launched += 1

    def reduce_gradients(self) -> None:
        """See `SyncStrategy.reduce_gradients`."""
        if not self.engine.is_gradient_accumulation_boundary():
            return
        for bucket in self.buckets[self._launched :]:  # a parameter without gradient held them up
            bucket.launch()
        for bucket in self.buckets:
            bucket.finish()
        self._launched = 0


class Bucket:
    """Some parameters, whose gradients travel as one vector."""

    def __init__(self, parameters: Sequence[nn.Parameter], wire_type: torch.dtype) -> None:
        self.parameters = list(parameters)
        sizes = [parameter.numel() for parameter in parameters]
        first = parameters[0]
        self.vector = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
        pieces = self.vector.split(sizes)
        self.views = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
        self.wire = self.vector if wire_type == first.dtype else self.vector.to(wire_type)
        self.missing = len(self.parameters)
        """Gradients that backward has not completed yet."""
        self._work: Any = None

    def launch(self) -> None:
        """Send the gradients on their way."""
        copy_gradients(self.parameters, self.views)
        self.vector.div_(dist.get_world_size())  # before the sum, which fp16 might not hold
        if self.wire is not self.vector:
            self.wire.copy_(self.vector)
        self._work = dist.all_reduce(self.wire, async_op=True)

    def finish(self) -> None:
        """Wait for the mean, and make it the parameters' gradient."""
        self._work.wait()
        if self.wire is not self.vector:
            self.vector.copy_(self.wire)
        self.hand_back()

    def hand_back(self) -> None:
        """Make the vector's parts the parameters' gradients."""
        for view, parameter in zip(self.views, self.parameters, strict=True):
            parameter.grad = view
        self.missing = len(self.parameters)


def _grouped(parameters: Sequence[nn.Parameter], bucket_size: int) -> list[list[nn.Parameter]]:
    """Runs of parameters of one type, up to `bucket_size` elements each; a larger parameter has one to itself."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        if not groups or parameter.numel() > room or parameter.dtype != groups[-1][0].dtype:
            groups.append([])
            room = bucket_size
        groups[-1].append(parameter)
        room -= parameter.numel()
    return groups
