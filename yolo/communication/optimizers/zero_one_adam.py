"""0/1 Adam: one bit an element from the start, the second moment renewed ever more rarely, and local steps.

Y. Lu et al., "Maximizing Communication Efficiency for Large-scale Training via 0/1 Adam", ICLR 2023, algorithm 1, with
the policies of its section 6: the k-th interval between renewals of the second moment is 2^(k // var_update_scaler)
steps, up to `var_freeze_step`; from there on ranks step by themselves, and the interval between exchanges doubles every
`local_step_scaler` steps up to `local_step_clipper`.

Differences, each for a reason: both moments are bias-corrected; weight decay is decoupled; where the second moment is
renewed, the averaged gradient is at hand in full and also makes the momentum; the accumulated momentum is divided by
the accumulated learning rate before it is compressed, so that error feedback keeps its scale while the rate falls.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch

from yolo.communication.optimizers.flat_optimizer import FlatOptimizer


class ZeroOneAdam(FlatOptimizer):
    """Names of the parameters as DeepSpeed documented them for its own until 0.19.6.

    Args:
        params: parameters or groups of them; betas and eps are the first group's.
        lr: learning rate.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled, times lr.
        var_freeze_step: steps after which the second moment stays; "auto": the end of the learning rate's warm-up.
        var_update_scaler: renewals of the second moment after which the interval between them doubles.
        local_step_scaler: steps after which the interval between exchanges doubles; "auto" reaches the clipper in the
            first half of what is left of the run.
        local_step_clipper: the longest interval between exchanges, in steps; 1 for none.
    """

    kind = "ZeroOneAdam"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        var_freeze_step: int | Literal["auto"] = "auto",
        var_update_scaler: int = 16,
        local_step_scaler: int | Literal["auto"] = "auto",
        local_step_clipper: int = 16,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        counters = {"renewals": 0, "next_renewal": 1, "next_exchange": 1}
        super().__init__(params, defaults | counters)
        self.var_freeze_step = var_freeze_step
        self.var_update_scaler = var_update_scaler
        self.local_step_scaler = local_step_scaler
        self.local_step_clipper = local_step_clipper
        self.accumulated = torch.zeros_like(self.momentum)
        """Momenta of this rank's steps since the last exchange, each times its learning rate."""
        self.anchor = [torch.empty_like(parameter) for parameter in self.parameters]
        """The weights of the last exchange, the same on all ranks; filled when ranks part."""
        self._rates = [0.0] * len(self.param_groups)
        self._decays = [1.0] * len(self.param_groups)
        self.steps_since_sync = 0
        self._had_gradient = False
        """Whether this rank had a finite gradient since the ranks parted."""

    def plan(self, warmup_steps: int, steps: int) -> str:
        """See `FlatOptimizer.plan`."""
        asked = self.var_freeze_step
        freeze = max(1, warmup_steps) if asked == "auto" else asked
        self.var_freeze_step = freeze
        if self.local_step_scaler == "auto":
            doublings = math.log2(self.local_step_clipper) + 1
            left = max(1, steps - freeze)
            self.local_step_scaler = max(1, round(left / 2 / doublings))
        self.switch_exchange()
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
        """See `FlatOptimizer.phase`."""
        step = self.step_count + 1
        interval = self.exchange_interval(step)
        if interval > 1:
            return f"momentum at 1 bit an element, every {interval} steps"
        rest = "" if self._is_frozen(step) else ", now and then a whole gradient"
        return f"momentum at 1 bit an element{rest}"

    # --- policies -----------------------------------------------------------------------------------------------

    @property
    def wants_averaged_gradients(self) -> bool:
        """See `FlatOptimizer.wants_averaged_gradients`: where the second moment is renewed."""
        next_renewal: int = self.param_groups[0]["next_renewal"]
        return self.step_count + 1 == next_renewal and not self._is_frozen(next_renewal)

    @property
    def is_local_step(self) -> bool:
        """See `FlatOptimizer.is_local_step`."""
        next_exchange: int = self.param_groups[0]["next_exchange"]
        return self.step_count + 1 < next_exchange and not self.wants_averaged_gradients

    def _is_frozen(self, step: int) -> bool:
        return self.var_freeze_step != "auto" and step > self.var_freeze_step

    def exchange_interval(self, step: int) -> int:
        """Steps from the exchange of `step` (counted from 1) to the next one."""
        if not self._is_frozen(step) or self.local_step_scaler == "auto":
            return 1
        assert self.var_freeze_step != "auto"
        doublings = (step - self.var_freeze_step) // self.local_step_scaler
        return int(min(self.local_step_clipper, 2 ** min(doublings, 32)))

    # --- one step -----------------------------------------------------------------------------------------------

    def advance(self, norm: torch.Tensor) -> None:
        """See `FlatOptimizer.advance`."""
        step = self.step_count + 1
        if self.wants_averaged_gradients:
            if self.note_averaged(norm):
                self.take_into_momentum()
                self.take_into_variance()
                self._renewed(step)
                self.move_by_momentum()
            return
        self.take_into_momentum()
        is_time = step >= self.param_groups[0]["next_exchange"]
        if is_time and not self.steps_since_sync:
            if self.note_local(self.compressed.average(self.momentum, norm)):
                self.move_by_momentum()
            return
        self._step_alone(step)
        if is_time:
            self._exchange(norm)

    def on_step_applied(self) -> None:
        """Say when ranks exchange next."""
        step = self.step_count
        if step >= self.param_groups[0]["next_exchange"]:
            self._set(next_exchange=step + self.exchange_interval(step))

    def _renewed(self, step: int) -> None:
        renewals = self.param_groups[0]["renewals"]
        interval = 2 ** min(renewals // self.var_update_scaler, 32)
        self._set(renewals=renewals + 1, next_renewal=step + interval)
        self.floored_root(self.variance, renewals + 1, out=self.denominator)

    def _set(self, **values: int) -> None:
        for group in self.param_groups:
            group.update(values)

    # --- steps that a rank takes alone ----------------------------------------------------------------------------

    def _step_alone(self, step: int) -> None:
        """Move this rank's weights by its own momentum, and remember by how much."""
        if not self.steps_since_sync:
            torch._foreach_copy_(self.anchor, self.parameters)
            self._had_gradient = False
        self.steps_since_sync += 1
        self._had_gradient |= self.has_gradient
        correction = 1 - self.param_groups[0]["betas"][0] ** step
        torch.div(self.momentum, self.denominator, out=self.update)
        for number, (span, views, group) in enumerate(self.groups()):
            rate = group["lr"] / correction
            self._rates[number] += rate
            self._decays[number] *= 1 - group["lr"] * group["weight_decay"]
            self.accumulated[span].add_(self.momentum[span], alpha=rate)
            self.update[span].mul_(-rate)
            self.move(views, group)

    def _exchange(self, norm: torch.Tensor) -> None:
        """Average what the ranks did since they parted, and take them all back to the same weights."""
        for span, rate in zip(self.spans, self._rates, strict=True):
            # At a learning rate of 0 nothing moved, and the momentum stays what it is.
            if rate > 0:
                torch.div(self.accumulated[span], rate, out=self.momentum[span])
        note = norm.nan_to_num(nan=0.0, posinf=0.0) if self._had_gradient else norm
        self.note_local(self.compressed.average(self.momentum, note))
        torch._foreach_copy_(self.parameters, self.anchor)
        torch.div(self.momentum, self.denominator, out=self.update)
        for number, (span, views, group) in enumerate(self.groups()):
            self.update[span].mul_(-self._rates[number])
            torch._foreach_mul_(group["params"], self._decays[number])
            torch._foreach_add_(group["params"], views)
        self.accumulated.zero_()
        self._rates = [0.0] * len(self.param_groups)
        self._decays = [1.0] * len(self.param_groups)
        self.steps_since_sync = 0

    @torch.no_grad()
    def flush(self) -> None:
        """See `FlatOptimizer.flush`: an exchange before its time."""
        if self.steps_since_sync:
            norm = torch.as_tensor(self._global_grad_norm, device=self.momentum.device)
            self._exchange(norm)
            step = self.step_count
            self._set(next_exchange=step + self.exchange_interval(step))

    # --- checkpoints --------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `FlatOptimizer.load_state_dict`; a checkpoint is taken when ranks are together."""
        super().load_state_dict(state_dict)
        renewals = self.param_groups[0]["renewals"]
        if renewals:
            self.floored_root(self.variance, renewals, out=self.denominator)
