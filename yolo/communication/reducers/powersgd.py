"""PowerSGD: send each gradient matrix as the product of two narrow ones, with error feedback.

T. Vogels et al., "PowerSGD: Practical Low-Rank Gradient Compression", NeurIPS 2019, by torch's communication hook for its
DDP. The hook sends the second factor from a callback of the first. With gloo and several buckets under way, such
callbacks run in another order on each rank. So all gradients form one bucket, sent after backward: at rank 2 it is less
than a hundredth of the gradients.
"""

from typing import Any, Literal

import torch
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from yolo.communication.coalesced import copy_gradients
from yolo.communication.reducers.bucketed import GradientBucket
from yolo.communication.strategy import DeepSpeedEngine, SyncStrategy

EARLIEST_START = 10
"""torch's hook needs two steps at least before it starts; the first gradients are of a network that hardly moved."""


class PowerSGDReducer(SyncStrategy):
    """Averages gradients at rank `rank` from step `start_step` on ("auto": the end of the learning rate's warm-up)."""

    kind = "powersgd"

    def __init__(
        self, engine: DeepSpeedEngine, rank: int, start_step: int | Literal["auto"]
    ) -> None:
        engine.enable_backward_allreduce = False
        self.engine = engine
        self.start_step = start_step
        parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self.bucket = _HookBucket(parameters, parameters[0].dtype)
        self.state = PowerSGDState(
            process_group=None,
            matrix_approximation_rank=rank,
            start_powerSGD_iter=EARLIEST_START if start_step == "auto" else start_step,
            min_compression_rate=1,
            orthogonalization_epsilon=1e-8,  # a dead filter's column is 0
        )
        self._memories: dict[str, dict[int, torch.Tensor]] = {
            "errors": self.state.error_dict,
            "p": self.state.p_memory_dict,
            "q": self.state.q_memory_dict,
        }

    @property
    def phase(self) -> str:
        if self.state.iter < self.state.start_powerSGD_iter:
            return "full gradients"
        return f"gradients at rank {self.state.matrix_approximation_rank}"

    def plan(self, warmup_steps: int, steps: int) -> str:
        if self.start_step == "auto":
            self.state.start_powerSGD_iter = max(EARLIEST_START, warmup_steps)
        start = self.state.start_powerSGD_iter
        if start < steps:
            return ""
        return f"communication.powersgd_start_step {start}: the run has {steps} steps, so nothing is ever compressed"

    def reduce_gradients(self) -> None:
        if not self.engine.is_gradient_accumulation_boundary():
            return
        bucket = self.bucket
        copy_gradients(bucket.parameters, bucket.views)
        mean = powerSGD_hook(self.state, bucket).wait()
        if not mean.isfinite().all():  # the same on all ranks, which skip the step
            for memory in self._memories.values():  # a non-finite value would stay there for ever
                memory.clear()
        bucket.vector.copy_(mean)
        bucket.assign_gradients()

    def rank_state(self) -> dict[str, Any]:
        memories = {name: dict(memory) for name, memory in self._memories.items()}
        return {"iter": self.state.iter, "rank": self.state.matrix_approximation_rank, **memories}

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        self.state.iter = state["iter"]
        has_same_shape = state["rank"] == self.state.matrix_approximation_rank
        device = self.bucket.vector.device
        for name, memory in self._memories.items():
            memory.clear()
            if is_own if name == "errors" else has_same_shape:
                memory.update({key: value.to(device) for key, value in state[name].items()})


class _HookBucket(GradientBucket):
    """A bucket with the methods of torch's `GradBucket` that the hook calls."""

    def index(self) -> int:
        return 0

    def is_last(self) -> bool:
        return True

    def buffer(self) -> torch.Tensor:
        return self.vector

    def gradients(self) -> list[torch.Tensor]:
        return self.views
