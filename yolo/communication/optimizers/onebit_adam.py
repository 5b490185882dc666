"""1-bit Adam: Adam until its second moment is stable, then momentum at one bit per element.

H. Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed", ICML 2021,
algorithm 1. Differences, each for a reason: both moments are bias-corrected, so that the first steps are Adam's; weight
decay is decoupled, as in AdamW; a scale belongs to a block, not to the full network; the frozen second moment has a
floor (`VARIANCE_FLOOR`).
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

import deepspeed.comm as dist
import torch

from yolo.communication.optimizers.flat_optimizer import FlatOptimizer

STEPS_BETWEEN_DECISIONS = 10
"""With `freeze_step: auto`, where each decision costs a round trip."""
STABLE_RATIO = 0.96
"""Between the second moment's L1 norm now and some steps ago (paper, section 7.1)."""
SHARE_OF_RUN = 0.05
"""The paper looks back 1 / (1 - beta2) steps, 1000 at 0.999; a shorter run looks back this share of its steps."""
LATEST_SHARE = 0.25
"""Share of the run after which the second moment is frozen in any case: a later freeze saves too little."""


class OneBitAdam(FlatOptimizer):
    """After `freeze_step` steps a rank sends two messages of one bit per element instead of two of 32.

    Args:
        params: parameters or groups of them.
        freeze_step: steps of plain Adam, or "auto": until the second moment is stable (`VarianceStabilityTest`).
        adam: lr, betas, eps and weight_decay, as in `FlatOptimizer`.
    """

    kind = "OneBitAdam"

    def __init__(
        self,
        params: Iterable[Any],
        *,
        freeze_step: int | Literal["auto"] = "auto",
        **adam: Any,
    ) -> None:
        super().__init__(params, {"frozen_at": None}, **adam)
        self.freeze_step: float = math.inf if freeze_step == "auto" else freeze_step
        self._stability: VarianceStabilityTest | None = None

    def plan(self, warmup_steps: int, steps: int) -> str:
        if self.freeze_step == math.inf:
            self._stability = VarianceStabilityTest(self.betas[1], warmup_steps, steps)
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
        return self.param_groups[0]["frozen_at"]

    @property
    def wants_averaged_gradients(self) -> bool:
        return self.frozen_at is None

    @property
    def phase(self) -> str:
        since = "" if self.frozen_at is None else f" since step {self.frozen_at}"
        return super().phase + since

    def apply_gradient(self) -> None:
        if self.update_moments():
            self.apply_momentum()

    def update_moments(self) -> bool:
        """Update both moments and the denominator; False if the step must be skipped."""
        if self.frozen_at is not None:
            self.update_momentum()
            return self.exchange(self.momentum, self.norm)
        if not self.accept_averaged():
            return False
        self.update_momentum()
        self.update_variance()
        self.root(self.variance, self.step_count + 1, out=self.denominator)
        return True

    def on_step_applied(self) -> None:
        """Freeze the second moment if it is time."""
        step = self.step_count
        if self.frozen_at is None and self._must_freeze(step):
            self.set_counters(frozen_at=step)
            self.floored_root(self.variance, step, out=self.denominator)

    def _must_freeze(self, step: int) -> bool:
        if self._stability is None:
            return step >= self.freeze_step
        correction = 1 - self.betas[1] ** step
        is_stable = self._stability.is_stable(step, float(self.variance.sum()) / correction)
        if step % STEPS_BETWEEN_DECISIONS:
            return False
        # One rank decides for all: on different processors their sums differ in the last digit, and ranks that freeze at
        # different steps would wait for each other's collectives for ever.
        decision = torch.tensor([int(is_stable)], device=self.variance.device)
        dist.broadcast(decision, 0)
        return bool(decision.item())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.frozen_at is not None:
            self.floored_root(self.variance, self.frozen_at, out=self.denominator)

    def rank_state(self) -> dict[str, Any]:
        norms = list(self._stability.norms) if self._stability else []
        return super().rank_state() | {"norms": norms}

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        super().load_rank_state(state, is_own)
        if self._stability is not None:
            self._stability.load(state["norms"])


class VarianceStabilityTest:
    """Whether the second moment is stable and may be frozen; to be called after each step."""

    def __init__(self, beta2: float, warmup_steps: int, steps: int) -> None:
        look_back = round(min(1 / (1 - beta2), max(10, SHARE_OF_RUN * steps)))
        self.earliest = warmup_steps
        """While the learning rate rises, gradients are of a network that hardly moved."""
        self.latest = max(warmup_steps + 1, round(LATEST_SHARE * steps))
        self.norms: deque[float] = deque(maxlen=look_back + 1)

    def is_stable(self, step: int, norm: float) -> bool:
        """`norm` is the L1 norm of the bias-corrected second moment after `step` steps."""
        self.norms.append(norm)
        if step >= self.latest:
            return True
        is_filled = len(self.norms) == self.norms.maxlen
        ratio = min(norm, self.norms[0]) / max(norm, self.norms[0], 1e-300)
        return step >= self.earliest and is_filled and ratio >= STABLE_RATIO

    def load(self, norms: Iterable[float]) -> None:
        """Load a checkpoint's `norms`."""
        self.norms.clear()
        self.norms.extend(norms)
