"""1-bit LAMB: LAMB until its second moment is stable, then momentum at one bit per element and scaled trust ratios.

C. Li et al., "1-bit LAMB: Communication Efficient Large-Scale Large-Batch Training with LAMB's Convergence Speed",
HiPC 2022 (arXiv 2104.06069), algorithm 1. While gradients are averaged, each tensor keeps a running mean of its trust
ratio. Afterwards the second moment that divides is frozen. A fresh one is computed from the gradient that the exchanged
momenta imply, and the kept ratio is scaled by the ratio of their roots.

Differences, each for a reason: both moments are bias-corrected; a scale belongs to a block of one tensor, so that the
paper's scaling of momenta to one magnitude before fusing them is not needed.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch

from yolo.communication.compression.blocks import copy_overlap
from yolo.communication.optimizers.onebit_adam import OneBitAdam

RANK_TENSORS = ("fresh_variance", "coefficients", "factors")
"""Attributes that `rank_state` adds to 1-bit Adam's."""


class OneBitLamb(OneBitAdam):
    """Arguments have the names that DeepSpeed documented for its own until 0.19.6.

    Args:
        params, freeze_step, adam: as in `OneBitAdam`, but weight decay is added to the direction before its trust ratio, as
            in LAMB.
        max_coeff, min_coeff: bounds of a trust ratio.
        coeff_beta: decay of its running mean.
        factor_max, factor_min: bounds of the factor on the kept ratio once the second moment is frozen.
        factor_threshold: share of itself by which the factor may change per step.
    """

    kind = "OneBitLamb"

    def __init__(
        self,
        params: Iterable[Any],
        *,
        freeze_step: int | Literal["auto"] = "auto",
        max_coeff: float = 10.0,
        min_coeff: float = 0.01,
        coeff_beta: float = 0.9,
        factor_max: float = 4.0,
        factor_min: float = 0.5,
        factor_threshold: float = 0.1,
        **adam: Any,
    ) -> None:
        super().__init__(params, freeze_step=freeze_step, **adam)
        self.bounds = (min_coeff, max_coeff)
        self.coeff_beta = coeff_beta
        self.factor_bounds = (factor_min, factor_max)
        self.factor_threshold = factor_threshold
        self.fresh_variance = torch.zeros_like(self.variance)
        self.last_momentum = torch.zeros_like(self.momentum)
        self.coefficients = self.momentum.new_zeros(len(self.parameters))
        """(tensors,) running mean of each tensor's trust ratio, kept once frozen."""
        self.factors = torch.ones_like(self.coefficients)
        """(tensors,) multiply the kept ratios."""

    def apply_gradient(self) -> None:
        self.last_momentum.copy_(self.momentum)
        if not self.update_moments():
            return
        step, was_frozen = self.step_count + 1, self.frozen_at is not None
        torch.div(self.momentum, self.denominator, out=self.update)
        self.update.div_(1 - self.betas[0] ** step)
        plain = torch.stack(torch._foreach_norm(self._updates))
        for _, views, group in self.groups():
            if group["weight_decay"]:
                torch._foreach_add_(views, group["params"], alpha=group["weight_decay"])
        decayed = torch.stack(torch._foreach_norm(self._updates))
        ratios = self._scaled_ratios(step, plain, decayed) if was_frozen else self._ratios(decayed)
        torch._foreach_mul_(self._updates, list(ratios.unbind()))
        for _, views, group in self.groups():
            torch._foreach_add_(group["params"], views, alpha=-group["lr"])

    def _ratios(self, update_norms: torch.Tensor) -> torch.Tensor:
        """Trust ratios (tensors,) of this step; updates their running mean."""
        weight_norms = torch.stack(torch._foreach_norm(self.parameters))
        ratios = (weight_norms / update_norms).clamp_(*self.bounds)
        ratios = torch.where((weight_norms > 0) & (update_norms > 0), ratios, 1.0)
        self.coefficients.lerp_(ratios, 1 - self.coeff_beta)
        return ratios

    def _scaled_ratios(
        self, step: int, plain_norms: torch.Tensor, decayed_norms: torch.Tensor
    ) -> torch.Tensor:
        """Kept ratios (tensors,) times the largest ratio of the frozen root to the fresh one.

        The norms are those of the updates before and after weight decay was added.
        """
        beta1, beta2 = self.betas
        implied = self.last_momentum.mul_(-beta1).add_(self.momentum).div_(1 - beta1)
        self.fresh_variance.mul_(beta2).addcmul_(implied, implied, value=1 - beta2)
        self.fresh_variance.mul_(self.layout.is_real)  # received padding has arbitrary signs
        # The momentum contains the gradient by now, so that its memory is free.
        fresh_root = self.floored_root(self.fresh_variance, step, out=self.gradient)
        torch.div(self.denominator, fresh_root, out=self.gradient)
        factors = torch.stack(torch._foreach_norm(self._gradients, float("inf")))
        # Weight decay does not depend on the second moment: only the share of the rest is scaled.
        share = torch.where(decayed_norms > 0, plain_norms / decayed_norms, 1.0).clamp_(max=1.0)
        factors = (factors * share + 1 - share).clamp_(*self.factor_bounds)
        near = self.factor_threshold
        self.factors = torch.clamp(factors, self.factors * (1 - near), self.factors * (1 + near))
        return self.coefficients * self.factors

    def on_step_applied(self) -> None:
        """Freeze as 1-bit Adam does; the fresh second moment starts as a copy of the frozen one."""
        was_frozen = self.frozen_at is not None
        super().on_step_applied()
        if self.frozen_at is not None and not was_frozen:
            self.fresh_variance.copy_(self.variance)
            # A running mean that starts at 0 is too small until it is corrected, as Adam's moments are.
            self.coefficients.div_(1 - self.coeff_beta**self.step_count)

    def rank_state(self) -> dict[str, Any]:
        return super().rank_state() | {name: getattr(self, name) for name in RANK_TENSORS}

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        super().load_rank_state(state, is_own)
        for name in RANK_TENSORS:
            copy_overlap(getattr(self, name), state[name])
