"""1-bit LAMB: LAMB until its second moment is stable, then momentum at one bit an element and scaled trust ratios.

C. Li et al., "1-bit LAMB: Communication Efficient Large-Scale Large-Batch Training with LAMB's Convergence Speed",
HiPC 2022 (arXiv 2104.06069), algorithm 1. While gradients are averaged, each tensor keeps a running mean of its trust
ratio. Afterwards the second moment that divides stands still, a fresh one is computed from the gradient that the
exchanged momenta imply, and the kept ratio is scaled by how far the two have moved apart.

Differences, each for a reason: both moments are bias-corrected; a scale belongs to a block of one tensor, so that the
paper's scaling of momenta to one magnitude before fusing them has nothing left to do.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch

from yolo.communication.compression.blocks import copy_as_far_as_both_go
from yolo.communication.optimizers.onebit_adam import OneBitAdam

KEPT = ("fresh_variance", "coefficients", "factors")
"""Its own part of a checkpoint."""


class OneBitLamb(OneBitAdam):
    """Names of the parameters as DeepSpeed documented them for its own until 0.19.6.

    Args:
        params, lr, betas, eps, freeze_step: as `OneBitAdam`.
        weight_decay: added to the direction before its trust ratio, as LAMB has it.
        max_coeff, min_coeff: bounds of a trust ratio.
        coeff_beta: decay of its running mean.
        factor_max, factor_min: bounds of the factor on the kept ratio once the second moment stands still.
        factor_threshold: by what share of itself the factor may change in a step.
    """

    kind = "OneBitLamb"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        freeze_step: int | Literal["auto"] = "auto",
        max_coeff: float = 10.0,
        min_coeff: float = 0.01,
        coeff_beta: float = 0.9,
        factor_max: float = 4.0,
        factor_min: float = 0.5,
        factor_threshold: float = 0.1,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, freeze_step)
        self.bounds = (min_coeff, max_coeff)
        self.coeff_beta = coeff_beta
        self.factor_bounds = (factor_min, factor_max)
        self.factor_threshold = factor_threshold
        self.fresh_variance = torch.zeros_like(self.variance)
        self.last_momentum = torch.zeros_like(self.momentum)
        self.coefficients = self.momentum.new_zeros(len(self.parameters))
        """(tensors,) running mean of each tensor's trust ratio, kept once frozen."""
        self.factors = torch.ones_like(self.coefficients)
        """(tensors,) what it is multiplied by since."""

    def advance(self, norm: torch.Tensor) -> None:
        """See `FlatOptimizer.advance`."""
        self.last_momentum.copy_(self.momentum)
        if not self.advance_moments(norm):
            return
        step, was_frozen = self.step_count + 1, self.frozen_at is not None
        torch.div(self.momentum, self.denominator, out=self.update)
        self.update.div_(1 - self.param_groups[0]["betas"][0] ** step)
        plain = torch.stack(torch._foreach_norm(self._updates))
        for _, views, group in self.groups():
            if group["weight_decay"]:
                torch._foreach_add_(views, group["params"], alpha=group["weight_decay"])
        whole = torch.stack(torch._foreach_norm(self._updates))
        ratios = self._scaled_ratios(step, plain, whole) if was_frozen else self._ratios(whole)
        torch._foreach_mul_(self._updates, list(ratios.unbind()))
        for _, views, group in self.groups():
            torch._foreach_add_(group["params"], views, alpha=-group["lr"])

    def _ratios(self, update_norms: torch.Tensor) -> torch.Tensor:
        """Trust ratios (tensors,) of this step, and their running mean."""
        weight_norms = torch.stack(torch._foreach_norm(self.parameters))
        ratios = (weight_norms / update_norms).clamp_(*self.bounds)
        ratios = torch.where((weight_norms > 0) & (update_norms > 0), ratios, 1.0)
        self.coefficients.lerp_(ratios, 1 - self.coeff_beta)
        return ratios

    def _scaled_ratios(
        self, step: int, plain_norms: torch.Tensor, whole_norms: torch.Tensor
    ) -> torch.Tensor:
        """Kept ratios (tensors,) times how much larger the frozen root is than the fresh one, at its largest."""
        beta1, beta2 = self.param_groups[0]["betas"]
        implied = self.last_momentum.mul_(-beta1).add_(self.momentum).div_(1 - beta1)
        self.fresh_variance.mul_(beta2).addcmul_(implied, implied, value=1 - beta2)
        self.fresh_variance.mul_(self.layout.is_real)  # padding, of which any sign was received
        # The gradient was taken into the momentum, and its memory is free.
        fresh_root = self.floored_root(self.fresh_variance, step, out=self.gradient)
        torch.div(self.denominator, fresh_root, out=self.gradient)
        factors = torch.stack(torch._foreach_norm(self._gradients, float("inf")))
        # Weight decay does not follow the second moment: only the share of the rest is scaled.
        share = torch.where(whole_norms > 0, plain_norms / whole_norms, 1.0).clamp_(max=1.0)
        factors = (factors * share + 1 - share).clamp_(*self.factor_bounds)
        near = self.factor_threshold
        self.factors = torch.clamp(factors, self.factors * (1 - near), self.factors * (1 + near))
        return self.coefficients * self.factors

    def on_step_applied(self) -> None:
        """See `OneBitAdam.on_step_applied`; the fresh second moment begins where the frozen one ends."""
        was_frozen = self.frozen_at is not None
        super().on_step_applied()
        if self.frozen_at is not None and not was_frozen:
            self.fresh_variance.copy_(self.variance)
            # A running mean that begins at 0 is too small until it is corrected, as Adam's moments are.
            self.coefficients.div_(1 - self.coeff_beta**self.step_count)

    def rank_state(self) -> dict[str, Any]:
        """See `FlatOptimizer.rank_state`."""
        return super().rank_state() | {name: getattr(self, name) for name in KEPT}

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        """See `SyncStrategy.load_rank_state`."""
        super().load_rank_state(state, is_own)
        for name in KEPT:
            copy_as_far_as_both_go(getattr(self, name), state[name])
