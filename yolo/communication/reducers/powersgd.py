"""PowerSGD: each gradient matrix as the product of two narrow ones, with error feedback.

T. Vogels et al., "PowerSGD: Practical Low-Rank Gradient Compression", NeurIPS 2019; torch's own communication hook does
it, made for its DDP. It sends the second factor from a callback of the first. With gloo such callbacks come in another
order on each rank when several buckets are under way, so the network is one bucket, sent after backward: at rank 2 it
is less than a hundredth of the gradients.
"""

from typing import Any, Literal

import torch
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from yolo.communication.coalesced import copy_gradients
from yolo.communication.reducers.bucketed import Bucket
from yolo.communication.strategy import DeepSpeedEngine, SyncStrategy

EARLIEST_START = 10
"""torch's hook wants two steps at least before it begins; the first gradients are of no network worth following."""


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
        self.bucket = _DdpBucket(Bucket(parameters, parameters[0].dtype))
        self.state = PowerSGDState(
            process_group=None,
            matrix_approximation_rank=rank,
            start_powerSGD_iter=EARLIEST_START if start_step == "auto" else start_step,
            min_compression_rate=1,
            orthogonalization_epsilon=1e-8,  # a dead filter's column is 0
        )

    @property
    def phase(self) -> str:
        """See `SyncStrategy.phase`."""
        has_begun = self.state.iter >= self.state.start_powerSGD_iter
        rank = self.state.matrix_approximation_rank
        return f"gradients at rank {rank}" if has_begun else "whole gradients"

    def plan(self, warmup_steps: int, steps: int) -> str:
        """See `SyncStrategy.plan`."""
        if self.start_step == "auto":
            self.state.start_powerSGD_iter = max(EARLIEST_START, warmup_steps)
        first = self.state.start_powerSGD_iter
        if first >= steps:
            return f"communication.powersgd_start_step {first}: the run has {steps} steps, so nothing is ever compressed"
        return ""

    def reduce_gradients(self) -> None:
        """See `SyncStrategy.reduce_gradients`."""
        if self.engine.is_gradient_accumulation_boundary():
            held = self.bucket.held
            copy_gradients(held.parameters, held.views)
            mean = powerSGD_hook(self.state, self.bucket).wait()
            if not mean.isfinite().all():  # the same on all ranks; the step is left out
                for memory in self._memories().values():  # once in there it would never leave
                    memory.clear()
            held.vector.copy_(mean)
            held.hand_back()

    def _memories(self) -> dict[str, dict[int, torch.Tensor]]:
        state = self.state
        return {
            "errors": state.error_dict,
            "p": state.p_memory_dict,
            "q": state.q_memory_dict,
        }

    def rank_state(self) -> dict[str, Any]:
        """See `SyncStrategy.rank_state`."""
        memories = {name: dict(memory) for name, memory in self._memories().items()}
        return {
            "iter": self.state.iter,
            "rank": self.state.matrix_approximation_rank,
            **memories,
        }

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        """See `SyncStrategy.load_rank_state`."""
        self.state.iter = state["iter"]
        has_same_shape = state["rank"] == self.state.matrix_approximation_rank
        for name, memory in self._memories().items():
            memory.clear()
            if is_own if name == "errors" else has_same_shape:
                device = self.bucket.held.vector.device
                memory.update({key: value.to(device) for key, value in state[name].items()})


class _DdpBucket:
    """A bucket, asked as torch's `GradBucket` is."""

    def __init__(self, held: Bucket) -> None:
        self.held = held

    def index(self) -> int:
        return 0

    def is_last(self) -> bool:
        return True

    def buffer(self) -> torch.Tensor:
        return self.held.vector

    def gradients(self) -> list[torch.Tensor]:
        return self.held.views
