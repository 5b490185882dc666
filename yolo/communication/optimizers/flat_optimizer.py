"""The shared part of the 1-bit optimizers: gradients, moments and updates as one vector, and the engine's all-reduce."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import deepspeed.comm as dist
import torch

from yolo.communication.coalesced import copy_gradients
from yolo.communication.compression.blocks import BlockLayout
from yolo.communication.compression.compressed_allreduce import CompressedAllReduce
from yolo.communication.optimizers.gradient_coherence import SKETCH, GradientCoherence
from yolo.communication.strategy import DeepSpeedEngine, SyncStrategy

VARIANCE_FLOOR = 0.01
"""Least second moment, as a share of its block's mean. All elements of a block are sent with one magnitude: divided by the
root of a second moment close to 0, it would become a huge step."""


class FlatOptimizer(torch.optim.Optimizer, SyncStrategy):
    """Base of optimizers that exchange momentum instead of gradients; ZeRO stage 0 only.

    All parameters form one vector of blocks (`BlockLayout`), in which a parameter group is a span. The state is that of
    torch's Adam, `exp_avg` and `exp_avg_sq` per parameter, so that checkpoints have the usual format. `rank_state` holds
    what differs between ranks.

    Args:
        params: parameters or groups of them; betas and eps are the first group's.
        counters: the subclass's own values in each parameter group; checkpoints hold them.
        lr: learning rate.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled, times lr.
    """

    averages_gradients = False

    def __init__(
        self,
        params: Iterable[Any],
        counters: dict[str, int | None],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, **counters, "step": 0})
        self.parameters: list[torch.Tensor] = [
            p for group in self.param_groups for p in group["params"]
        ]
        dtype = self.parameters[0].dtype
        self.layout = BlockLayout(self.parameters, dist.get_world_size())
        self.spans = self.layout.spans([len(group["params"]) for group in self.param_groups])
        self.momentum = self.layout.vector(dtype)
        self.variance = self.layout.vector(dtype)
        self.gradient = self.layout.vector(dtype)
        self.update = self.layout.vector(dtype)
        self.denominator = torch.ones_like(self.update)
        """Divides the momentum to make an update: sqrt(v) + eps; the same on all ranks."""
        self._gradients = self.layout.views(self.gradient)
        self._updates = self.layout.views(self.update)
        moments = zip(
            self.layout.views(self.momentum), self.layout.views(self.variance), strict=True
        )
        self._moments = [{"exp_avg": first, "exp_avg_sq": second} for first, second in moments]
        self.state.update(zip(self.parameters, map(dict, self._moments), strict=True))
        self.compressed = CompressedAllReduce(self.layout, dtype, extras=1 + SKETCH)
        self.coherence = GradientCoherence(
            dist.get_world_size(), self.layout.length, self.layout.block, self.layout.device
        )
        self.norm = self.momentum.new_zeros(())
        """Norm of the step's gradient before clipping: of the mean over the ranks, or of this rank's own."""
        self.overflow = False
        """Whether the last step was skipped because no rank had a finite gradient; read by DeepSpeed."""
        self._global_grad_norm: torch.Tensor | float = 0.0
        """Also read by DeepSpeed. Once gradients are no longer averaged, the root mean square over the ranks."""
        self.clipping = 0.0
        self.has_gradient = False
        """Whether this rank's gradient of the last step was finite."""
        self.bound: torch.Tensor | float = math.inf
        """Norm to which the step's gradient was clipped."""
        self._engine: DeepSpeedEngine | None = None

    def attach(self, engine: DeepSpeedEngine, clipping: float) -> None:
        """Take over the engine's all-reduce of gradients, and clipping (to a gradient norm, 0 for none).

        Averaged gradients are clipped as usual. Afterwards each rank clips its own, which is longer than the mean: the bound
        is raised by as much (`GradientCoherence`), so that steps keep their length whatever the number of ranks.
        """
        self._engine = engine
        self.clipping = clipping
        self.update_engine()

    def update_engine(self) -> None:
        """Switch the engine's averaging of the next step's gradients on or off."""
        if self._engine is not None:
            self._engine.enable_backward_allreduce = self.wants_averaged_gradients

    @property
    def wants_averaged_gradients(self) -> bool:
        """Whether the next step needs gradients that are averaged over the ranks."""
        raise NotImplementedError

    @property
    def phase(self) -> str:
        return (
            "full gradients" if self.wants_averaged_gradients else "momentum at 1 bit per element"
        )

    @property
    def betas(self) -> tuple[float, float]:
        """Decay of the first and of the second moment."""
        beta1, beta2 = self.param_groups[0]["betas"]
        return beta1, beta2

    @property
    def step_count(self) -> int:
        """Applied optimizer steps."""
        return self.param_groups[0]["step"]

    def set_counters(self, **values: int) -> None:
        """Set values in all parameter groups."""
        for group in self.param_groups:
            group.update(values)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; collective if the engine does not average the gradients."""
        self._collect_gradient()
        self.overflow = False
        self.apply_gradient()
        if not self.overflow:
            self.set_counters(step=self.step_count + 1)
            self.on_step_applied()
        self.update_engine()

    def apply_gradient(self) -> None:
        """Make a step of `self.gradient`."""
        raise NotImplementedError

    def on_step_applied(self) -> None:
        """Run after a step has been applied and counted."""

    def _collect_gradient(self) -> None:
        """Fill `self.gradient` and clip it. A non-finite gradient becomes 0: the rank contributes nothing to the step."""
        copy_gradients(self.parameters, self._gradients)
        # Per tensor, because fp32 sums a million squares in sequence only to three digits.
        self.norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._gradients)))
        is_finite = self.norm.isfinite()
        self.gradient.masked_fill_(~is_finite, 0)
        if self.clipping > 0:
            is_mean = self.wants_averaged_gradients
            self.bound = self.clipping / (1.0 if is_mean else self.coherence.ratio)
            factor = (self.bound / (self.norm + 1e-6)).clamp_(max=1.0)
            self.gradient.mul_(torch.where(is_finite, factor, 0.0))

    def update_momentum(self) -> None:
        """m <- beta1 m + (1 - beta1) g."""
        beta1, _ = self.betas
        self.momentum.mul_(beta1).add_(self.gradient, alpha=1 - beta1)

    def update_variance(self) -> None:
        """v <- beta2 v + (1 - beta2) g^2."""
        _, beta2 = self.betas
        self.variance.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1 - beta2)

    def apply_momentum(self) -> None:
        """x <- (1 - lr wd) x - lr m / ((1 - beta1^t) denominator), t being the current step."""
        correction = 1 - self.betas[0] ** (self.step_count + 1)
        torch.div(self.momentum, self.denominator, out=self.update)
        for span, views, group in self.groups():
            self.update[span].mul_(-group["lr"] / correction)
            self.apply_update(views, group)

    def accept_averaged(self) -> bool:
        """Keep the norm of an averaged gradient; False if the step must be skipped. On a GPU the host waits for backward."""
        self._global_grad_norm = self.norm
        self.has_gradient = bool(self.norm.isfinite())
        self.overflow = not self.has_gradient
        return not self.overflow

    def exchange(self, vector: torch.Tensor, norm: torch.Tensor) -> bool:
        """Average a vector of momentum over the ranks, in place; False if no rank has a finite norm to give.

        The norms and sketches of the ranks' gradients travel with it. On a GPU the host waits for the exchange here, and
        nowhere before: DeepSpeed must be told whether the step is skipped. `self.update` is overwritten.
        """
        sketch = self.coherence.sketch(self.gradient, self.step_count, scratch=self.update)
        sent = self.compressed.average(vector, torch.cat([norm.reshape(1), sketch]))
        norms, sketches = sent[:, 0], sent[:, 1:]
        is_finite = norms.isfinite()
        squares = torch.where(is_finite, norms, 0.0).square()
        clipped = torch.where(is_finite, norms.clamp(max=self.bound), 0.0).square()
        finite = is_finite.sum()
        self._global_grad_norm = (squares.sum() / finite).sqrt()
        self.coherence.update(sketches, clipped.mean())
        is_any, self.has_gradient = torch.stack([finite > 0, self.norm.isfinite()]).tolist()
        self.overflow = not is_any
        return not self.overflow

    def apply_update(self, views: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Decay a group's weights, and add its part of `self.update`, given as `views`."""
        if group["weight_decay"]:
            torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(group["params"], views)

    def groups(self) -> Iterator[tuple[slice, list[torch.Tensor], dict[str, Any]]]:
        """Each parameter group with its span of the vectors, and its tensors' views of `self.update`."""
        updates = iter(self._updates)
        for span, group in zip(self.spans, self.param_groups, strict=True):
            yield span, [next(updates) for _ in group["params"]], group

    def root(self, variance: torch.Tensor, updates: int, out: torch.Tensor) -> torch.Tensor:
        """sqrt(v) + eps of a second moment, bias-corrected for its number of updates."""
        torch.div(variance, 1 - self.betas[1] ** updates, out=out)
        return out.sqrt_().add_(self.param_groups[0]["eps"])

    def floored_root(self, variance: torch.Tensor, updates: int, out: torch.Tensor) -> torch.Tensor:
        """The same with `VARIANCE_FLOOR`."""
        blocks = variance.view(-1, self.layout.block)
        floor = blocks.sum(1).div_(self.layout.counts).mul_(VARIANCE_FLOOR)
        torch.maximum(blocks, floor[:, None], out=out.view(-1, self.layout.block))
        return self.root(out, updates, out=out)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of the same parameters."""
        super().load_state_dict(state_dict)
        for parameter, moments in zip(self.parameters, self._moments, strict=True):
            for name, moment in moments.items():
                moment.copy_(self.state[parameter][name])
            self.state[parameter] = dict(moments)
        self.update_engine()

    def rank_state(self) -> dict[str, Any]:
        return {**self.compressed.state_dict(), **self.coherence.state_dict()}

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        if is_own:
            self.compressed.load_state_dict(state)
            if "coherence" in state:  # not in checkpoints from before it was measured
                self.coherence.load_state_dict(state)
