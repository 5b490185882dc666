"""1-bit Adam: Adam until its second moment is stable, then momentum at one bit an element.

H. Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed", ICML 2021,
algorithm 1. Differences, each for a reason: both moments are bias-corrected, so that the first steps are Adam's; weight
decay is decoupled, as in AdamW; a scale belongs to a block, not to the whole network; the frozen second moment has a
floor (`VARIANCE_FLOOR`).
"""

from collections.abc import Iterable
from typing import Any, Literal

import deepspeed.comm as dist
import torch

from yolo.communication.optimizers.flat_optimizer import FlatOptimizer
from yolo.communication.optimizers.variance_freeze import VarianceStabilityTest

STEPS_BETWEEN_DECISIONS = 10
"""Of `freeze_step: auto`, each of which costs a round trip."""


class OneBitAdam(FlatOptimizer):
    """After `freeze_step` steps a rank sends two messages of one bit an element instead of two of 32.

    Args:
        params: parameters or groups of them; betas and eps are the first group's.
        lr: learning rate.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled, times lr.
        freeze_step: steps of plain Adam, or "auto": until the second moment is stable (`VarianceStabilityTest`).
    """

    kind = "OneBitAdam"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        freeze_step: int | Literal["auto"] = "auto",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"frozen_at": None})
        self.freeze_step = freeze_step
        self._watch: VarianceStabilityTest | None = None

    def plan(self, warmup_steps: int, steps: int) -> str:
        """See `FlatOptimizer.plan`."""
        if self.freeze_step == "auto":
            self._watch = VarianceStabilityTest(
                self.param_groups[0]["betas"][1], warmup_steps, steps
            )
        elif self.freeze_step >= steps:
            return f"optimizer.freeze_step {self.freeze_step}: the run has {steps} steps, so nothing is ever compressed"
        elif self.freeze_step < warmup_steps:
            return (
                f"optimizer.freeze_step {self.freeze_step}: the learning rate rises for {warmup_steps} steps, and a second "
                "moment frozen before that is too small for what follows"
            )
        return ""

    @property
    def frozen_at(self) -> int | None:
        """The number of steps after which the second moment was frozen; None before."""
        step: int | None = self.param_groups[0]["frozen_at"]
        return step

    @property
    def wants_averaged_gradients(self) -> bool:
        """See `FlatOptimizer.wants_averaged_gradients`."""
        return self.frozen_at is None

    @property
    def phase(self) -> str:
        """See `FlatOptimizer.phase`."""
        since = "" if self.frozen_at is None else f" since step {self.frozen_at}"
        return super().phase + since

    def advance(self, norm: torch.Tensor) -> None:
        """See `FlatOptimizer.advance`."""
        if self.advance_moments(norm):
            self.move_by_momentum()

    def advance_moments(self, norm: torch.Tensor) -> bool:
        """Both moments and the denominator of a step; False where it must be left out."""
        if self.frozen_at is not None:
            self.take_into_momentum()
            return self.note_local(self.compressed.average(self.momentum, norm))
        if not self.note_averaged(norm):
            return False
        self.take_into_momentum()
        self.take_into_variance()
        self.root(self.variance, self.step_count + 1, out=self.denominator)
        return True

    def on_step_applied(self) -> None:
        """Freeze when it is time."""
        step = self.step_count
        if self.frozen_at is None and self._is_time(step):
            for group in self.param_groups:
                group["frozen_at"] = step
            self.floored_root(self.variance, step, out=self.denominator)

    def _is_time(self, step: int) -> bool:
        if self.freeze_step != "auto":
            return step >= self.freeze_step
        if self._watch is None:
            return False
        correction = 1 - self.param_groups[0]["betas"][1] ** step
        is_stable = self._watch.is_stable(step, float(self.variance.sum()) / correction)
        if step % STEPS_BETWEEN_DECISIONS:
            return False
        # One rank decides for all: on unlike processors their sums differ in the last digit, and ranks that freeze at
        # different steps would wait for each other's collectives for ever.
        decision = torch.tensor([int(is_stable)], device=self.variance.device)
        dist.broadcast(decision, 0)
        return bool(decision.item())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `FlatOptimizer.load_state_dict`."""
        super().load_state_dict(state_dict)
        if self.frozen_at is not None:
            self.floored_root(self.variance, self.frozen_at, out=self.denominator)

    def rank_state(self) -> dict[str, Any]:
        """See `FlatOptimizer.rank_state`."""
        return super().rank_state() | {"norms": self._watch.state() if self._watch else []}

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        """See `SyncStrategy.load_rank_state`."""
        super().load_rank_state(state, is_own)
        if self._watch is not None:
            self._watch.load(state["norms"])
