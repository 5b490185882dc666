"""Local SGD: each rank trains by itself and synchronises every `sync_every` steps.

After `sync_every` steps of the recipe's own optimizer, the mean over the ranks of their movement since the last sync is
the gradient of an outer step with Nesterov momentum: A. Douillard et al., "DiLoCo: Distributed Low-Communication Training
of Language Models", 2023, algorithm 1. With outer_lr 1 and no outer momentum the weights are averaged: S. Stich, "Local
SGD Converges Fast and Communicates Little", ICLR 2019.
"""

from typing import Any

import deepspeed.comm as dist
import torch

from yolo.communication.compression.blocks import BLOCK, BlockLayout, copy_overlap
from yolo.communication.compression.compressed_allreduce import CompressedAllReduce
from yolo.communication.reducers.bucketed import WIRE_TYPES
from yolo.communication.strategy import DeepSpeedEngine, SyncStrategy


class LocalSGD(SyncStrategy):
    """Exchanges the movement of the weights instead of gradients.

    Args:
        engine: at ZeRO stage 0; its optimizer's moments differ from rank to rank.
        sync_every: steps between two outer steps.
        lr, momentum: of the outer step.
        data_type: of the movement on the wire.
        is_one_bit: send the signs of the movement instead, with error feedback.
    """

    kind = "local_steps"
    is_local_step = True

    def __init__(
        self,
        engine: DeepSpeedEngine,
        sync_every: int,
        lr: float,
        momentum: float,
        data_type: str,
        is_one_bit: bool,
    ) -> None:
        engine.enable_backward_allreduce = False
        self.optimizer = engine.optimizer
        self.sync_every = sync_every
        self.lr = lr
        self.momentum = momentum
        self.wire_type = WIRE_TYPES[data_type]
        self.parameters: list[torch.Tensor] = [
            parameter for parameter in engine.module.parameters() if parameter.requires_grad
        ]
        dtype = self.parameters[0].dtype
        block = BLOCK if is_one_bit else 1
        layout = BlockLayout(self.parameters, dist.get_world_size(), block)
        self.anchor = layout.vector(dtype)
        """The weights after the last sync."""
        self.velocity = layout.vector(dtype)
        """The outer momentum, the same on all ranks."""
        self.movement = layout.vector(dtype)
        self._anchors = layout.views(self.anchor)
        self._movements = layout.views(self.movement)
        self._compressed = CompressedAllReduce(layout, dtype) if is_one_bit else None
        self.on_weights_loaded()

    def after_step(self) -> None:
        self.steps_since_sync += 1
        if self.steps_since_sync >= self.sync_every:
            self.flush()

    @torch.no_grad()
    def flush(self) -> None:
        """Take the outer step, before its time if an epoch ends."""
        if not self.steps_since_sync:
            return
        torch._foreach_copy_(self._movements, self._anchors)
        torch._foreach_sub_(self._movements, self.parameters)
        if self._compressed is not None:
            self._compressed.average(self.movement)
        else:
            self.movement.div_(dist.get_world_size())
            wire = self.movement.to(self.wire_type)
            dist.all_reduce(wire)
            self.movement.copy_(wire)
        self.velocity.mul_(self.momentum).add_(self.movement)
        self.movement.add_(self.velocity, alpha=self.momentum)  # Nesterov
        self.anchor.sub_(self.movement, alpha=self.lr)
        torch._foreach_copy_(self.parameters, self._anchors)
        self.steps_since_sync = 0

    @torch.no_grad()
    def on_weights_loaded(self) -> None:
        """Make these weights the anchor."""
        torch._foreach_copy_(self._anchors, self.parameters)

    def rank_state(self) -> dict[str, Any]:
        """See `SyncStrategy.rank_state`; a checkpoint is saved after a sync, so that the weights are not part of it."""
        return {
            "velocity": self.velocity,
            "inner": self.optimizer.state_dict(),
            "compressed": self._compressed.state_dict() if self._compressed else {},
        }

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        """See `SyncStrategy.load_rank_state`; with another number of ranks, all load the first rank's moments."""
        copy_overlap(self.velocity, state["velocity"])
        self.optimizer.load_state_dict(state["inner"])
        if is_own and self._compressed is not None and state["compressed"]:
            self._compressed.load_state_dict(state["compressed"])
