"""0/1 Adam: one bit per element from the start, increasingly rare renewals of the second moment, and local steps.

Y. Lu et al., "Maximizing Communication Efficiency for Large-scale Training via 0/1 Adam", ICLR 2023, algorithm 1, with
the policies of its section 6: the k-th interval between renewals of the second moment is 2^(k // var_update_scaler)
steps, up to `var_freeze_step`. From there on ranks take local steps, and the interval between syncs doubles every
`local_step_scaler` steps up to `local_step_clipper`.

Differences, each for a reason: both moments are bias-corrected; weight decay is decoupled; when the second moment is
renewed, the averaged gradient is available in full and also updates the momentum; the accumulated momentum is divided by
the accumulated learning rate before it is compressed, so that error feedback keeps its scale while the rate falls.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch

from yolo.communication.optimizers.flat_optimizer import FlatOptimizer


class ZeroOneAdam(FlatOptimizer):
    """Arguments have the names that DeepSpeed documented for its own until 0.19.6.

    Args:
        params: parameters or groups of them.
        var_freeze_step: steps after which the second moment is frozen; "auto": the end of the learning rate's warm-up.
        var_update_scaler: renewals of the second moment after which the interval between them doubles.
        local_step_scaler: steps after which the interval between syncs doubles; "auto" reaches the clipper in the first
            half of the remaining run.
        local_step_clipper: the longest interval between syncs, in steps; 1 for no local steps.
        adam: lr, betas, eps and weight_decay, as in `FlatOptimizer`.
    """

    kind = "ZeroOneAdam"

    def __init__(
        self,
        params: Iterable[Any],
        *,
        var_freeze_step: int | Literal["auto"] = "auto",
        var_update_scaler: int = 16,
        local_step_scaler: int | Literal["auto"] = "auto",
        local_step_clipper: int = 16,
        **adam: Any,
    ) -> None:
        super().__init__(params, {"renewals": 0, "next_renewal": 1, "next_exchange": 1}, **adam)
        self.var_freeze_step: float = math.inf if var_freeze_step == "auto" else var_freeze_step
        self.var_update_scaler = var_update_scaler
        self.local_step_scaler: float = (
            math.inf if local_step_scaler == "auto" else local_step_scaler
        )
        self.local_step_clipper = local_step_clipper
        self.accumulated = torch.zeros_like(self.momentum)
        """Momenta of this rank's steps since the last sync, each times its learning rate."""
        self.anchor = [torch.empty_like(parameter) for parameter in self.parameters]
        """The weights of the last sync, the same on all ranks; filled before the first local step."""
        self._rates: list[float] = []
        self._decays: list[float] = []
        """Accumulated learning rates and factors of weight decay since the last sync, per group."""
        self._had_gradient = False
        """Whether this rank had a finite gradient since the last sync."""

    def plan(self, warmup_steps: int, steps: int) -> str:
        if self.var_freeze_step == math.inf:
            self.var_freeze_step = max(1, warmup_steps)
        freeze = self.var_freeze_step
        if self.local_step_scaler == math.inf:
            doublings = math.log2(self.local_step_clipper) + 1
            self.local_step_scaler = max(1, round(max(1, steps - freeze) / 2 / doublings))
        self.update_engine()
        if freeze < warmup_steps:
            return (
                f"optimizer.var_freeze_step {freeze}: the learning rate rises for {warmup_steps} steps, and a second moment "
                "frozen before that is too small for what follows"
            )
        if freeze >= steps and self.local_step_clipper > 1:
            return f"optimizer.var_freeze_step {freeze}: the run has {steps} steps, so there are no local steps"
        return ""

    @property
    def phase(self) -> str:
        step = self.step_count + 1
        interval = self.sync_interval(step)
        if interval > 1:
            return f"momentum at 1 bit per element, every {interval} steps"
        rest = "" if self._is_frozen(step) else ", and sometimes a full gradient"
        return f"momentum at 1 bit per element{rest}"

    @property
    def wants_averaged_gradients(self) -> bool:
        """See `FlatOptimizer.wants_averaged_gradients`: true if the second moment is renewed."""
        next_renewal = self.param_groups[0]["next_renewal"]
        return self.step_count + 1 == next_renewal and not self._is_frozen(next_renewal)

    @property
    def is_local_step(self) -> bool:
        next_sync = self.param_groups[0]["next_exchange"]
        return self.step_count + 1 < next_sync and not self.wants_averaged_gradients

    def _is_frozen(self, step: int) -> bool:
        return step > self.var_freeze_step

    def sync_interval(self, step: int) -> int:
        """Steps from the sync at `step` (counted from 1) to the next one."""
        if not self._is_frozen(step):
            return 1
        doublings = (step - self.var_freeze_step) // self.local_step_scaler
        return int(min(self.local_step_clipper, 2 ** min(doublings, 32)))

    def apply_gradient(self) -> None:
        step = self.step_count + 1
        if self.wants_averaged_gradients:
            if self.accept_averaged():
                self.update_momentum()
                self.update_variance()
                self._renew_denominator(step)
                self.apply_momentum()
            return
        self.update_momentum()
        must_sync = step >= self.param_groups[0]["next_exchange"]
        if must_sync and not self.steps_since_sync:
            if self.exchange(self.momentum, self.norm):
                self.apply_momentum()
            return
        self._local_step(step)
        if must_sync:
            self._sync()

    def on_step_applied(self) -> None:
        """Set the step of the next sync."""
        if self.step_count >= self.param_groups[0]["next_exchange"]:
            self._schedule_sync()

    def _schedule_sync(self) -> None:
        step = self.step_count
        self.set_counters(next_exchange=step + self.sync_interval(step))

    def _renew_denominator(self, step: int) -> None:
        renewals = self.param_groups[0]["renewals"]
        interval = 2 ** min(renewals // self.var_update_scaler, 32)
        self.set_counters(renewals=renewals + 1, next_renewal=step + interval)
        self.floored_root(self.variance, renewals + 1, out=self.denominator)

    def _local_step(self, step: int) -> None:
        """Move this rank's weights by its own momentum, and accumulate the movement."""
        if not self.steps_since_sync:
            torch._foreach_copy_(self.anchor, self.parameters)
            self.accumulated.zero_()
            self._rates = [0.0] * len(self.param_groups)
            self._decays = [1.0] * len(self.param_groups)
            self._had_gradient = False
        self.steps_since_sync += 1
        self.has_gradient = bool(self.norm.isfinite())
        self._had_gradient |= self.has_gradient
        correction = 1 - self.betas[0] ** step
        torch.div(self.momentum, self.denominator, out=self.update)
        for number, (span, views, group) in enumerate(self.groups()):
            rate = group["lr"] / correction
            self._rates[number] += rate
            self._decays[number] *= 1 - group["lr"] * group["weight_decay"]
            self.accumulated[span].add_(self.momentum[span], alpha=rate)
            self.update[span].mul_(-rate)
            self.apply_update(views, group)

    def _sync(self) -> None:
        """Average the ranks' movements since the last sync, and set all ranks to the same weights."""
        for span, rate in zip(self.spans, self._rates, strict=True):
            # At a learning rate of 0 nothing moved, and the momentum stays.
            if rate > 0:
                torch.div(self.accumulated[span], rate, out=self.momentum[span])
        norm = self.norm.nan_to_num(nan=0.0, posinf=0.0) if self._had_gradient else self.norm
        self.exchange(self.momentum, norm)
        torch._foreach_copy_(self.parameters, self.anchor)
        torch.div(self.momentum, self.denominator, out=self.update)
        for number, (span, views, group) in enumerate(self.groups()):
            self.update[span].mul_(-self._rates[number])
            torch._foreach_mul_(group["params"], self._decays[number])
            torch._foreach_add_(group["params"], views)
        self.steps_since_sync = 0

    @torch.no_grad()
    def flush(self) -> None:
        """Sync before its time, if ranks have taken local steps."""
        if self.steps_since_sync:
            self._sync()
            self._schedule_sync()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `FlatOptimizer.load_state_dict`; checkpoints are saved right after a sync."""
        super().load_state_dict(state_dict)
        renewals = self.param_groups[0]["renewals"]
        if renewals:
            self.floored_root(self.variance, renewals, out=self.denominator)
