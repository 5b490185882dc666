"""What the 1-bit optimizers share: gradients, moments and updates as one vector, and a hand on the engine's exchange."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import deepspeed.comm as dist
import torch

from yolo.communication.coalesced import copy_gradients
from yolo.communication.compression.blocks import BlockLayout
from yolo.communication.compression.compressed_allreduce import CompressedAllReduce
from yolo.communication.strategy import DeepSpeedEngine, SyncStrategy

VARIANCE_FLOOR = 0.01
"""Least second moment, as a share of its block's mean. All elements of a block are sent with one magnitude, and where
the second moment is next to nothing the division by its root would make a huge step of it."""


class FlatOptimizer(torch.optim.Optimizer, SyncStrategy):
    """A base for optimizers that exchange momentum instead of gradients; ZeRO stage 0 only.

    The whole network is one vector of blocks (`BlockLayout`), in which a parameter group is a span. State is that of
    torch's Adam, `exp_avg` and `exp_avg_sq` for each parameter, so that a checkpoint holds nothing unusual; what
    differs from rank to rank is in `rank_state`.
    """

    averages_gradients = False

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults | {"step": 0})
        self.parameters: list[torch.Tensor] = [
            p for group in self.param_groups for p in group["params"]
        ]
        first = self.parameters[0]
        self.layout = BlockLayout(self.parameters, dist.get_world_size())
        self.spans = self.layout.spans([len(group["params"]) for group in self.param_groups])
        self.momentum = self.layout.vector(first.dtype)
        self.variance = self.layout.vector(first.dtype)
        self.gradient = self.layout.vector(first.dtype)
        self.update = self.layout.vector(first.dtype)
        self.denominator = torch.ones_like(self.update)
        """What momentum is divided by to make an update: sqrt(v) + eps; the same on all ranks."""
        self._gradients = self.layout.views(self.gradient)
        self._updates = self.layout.views(self.update)
        self._moments = list(
            zip(self.layout.views(self.momentum), self.layout.views(self.variance), strict=True)
        )
        self._link_state()
        self.compressed = CompressedAllReduce(self.layout, first.dtype)
        self.overflow = False
        """Whether the last step moved no weight because no rank had a finite gradient; DeepSpeed asks for it."""
        self._global_grad_norm: torch.Tensor | float = 0.0
        """DeepSpeed asks for it too. Once gradients are no longer averaged, the root mean square over the ranks."""
        self.clipping = 0.0
        self.has_gradient = False
        """Whether this rank's gradient of the step under way is finite."""
        self._engine: DeepSpeedEngine | None = None

    # --- around the steps ---------------------------------------------------------------------------------------

    def attach(self, engine: DeepSpeedEngine, clipping: float) -> None:
        """Take charge of the engine's gradient exchange, and of clipping (a gradient norm, 0 for none).

        Averaged gradients are clipped as everywhere. Afterwards each rank clips its own: the norm of a mean is at most
        the mean of the norms, so that the bound holds for what all ranks contribute together.
        """
        self._engine = engine
        self.clipping = clipping
        self.switch_exchange()

    @property
    def wants_averaged_gradients(self) -> bool:
        """Whether the next step needs gradients that are averaged over the ranks."""
        raise NotImplementedError

    @property
    def phase(self) -> str:
        """What is exchanged at present, in a few words."""
        return (
            "whole gradients" if self.wants_averaged_gradients else "momentum at 1 bit an element"
        )

    def switch_exchange(self) -> None:
        """Tell the engine whether to average the gradients of the next step."""
        if self._engine is not None:
            self._engine.enable_backward_allreduce = self.wants_averaged_gradients

    @property
    def step_count(self) -> int:
        """Optimizer steps taken."""
        count: int = self.param_groups[0]["step"]
        return count

    # --- one step -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; collective once gradients are no longer averaged by the engine."""
        norm = self._take_gradients()
        self.overflow = False
        self.advance(norm)
        if not self.overflow:
            for group in self.param_groups:
                group["step"] += 1
            self.on_step_applied()
        self.switch_exchange()

    def advance(self, norm: torch.Tensor) -> None:
        """Turn `self.gradient`, whose norm is given, into a step."""
        raise NotImplementedError

    def on_step_applied(self) -> None:
        """Run after a step has been applied and counted."""

    def _take_gradients(self) -> torch.Tensor:
        """Fill `self.gradient`; returns its norm, before clipping. One that is not finite becomes 0."""
        copy_gradients(self.parameters, self._gradients)
        # Tensor by tensor, because fp32 adds up a million squares in a row only to three digits.
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._gradients)))
        # On a GPU this waits for backward, as DeepSpeed's own check does.
        self.has_gradient = bool(norm.isfinite())
        if not self.has_gradient:
            self.gradient.zero_()  # this rank has nothing to say in this step
        elif self.clipping > 0:
            self.gradient.mul_((self.clipping / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    def take_into_momentum(self) -> None:
        """m <- beta1 m + (1 - beta1) g."""
        beta1, _ = self.param_groups[0]["betas"]
        self.momentum.mul_(beta1).add_(self.gradient, alpha=1 - beta1)

    def take_into_variance(self) -> None:
        """v <- beta2 v + (1 - beta2) g^2."""
        _, beta2 = self.param_groups[0]["betas"]
        self.variance.mul_(beta2).addcmul_(self.gradient, self.gradient, value=1 - beta2)

    def move_by_momentum(self) -> None:
        """x <- (1 - lr wd) x - lr m / ((1 - beta1^t) denominator), t being the step under way."""
        correction = 1 - self.param_groups[0]["betas"][0] ** (self.step_count + 1)
        torch.div(self.momentum, self.denominator, out=self.update)
        for span, views, group in self.groups():
            self.update[span].mul_(-group["lr"] / correction)
            self.move(views, group)

    def note_averaged(self, norm: torch.Tensor) -> bool:
        """Keep the norm of an averaged gradient; False where the step must be left out."""
        self._global_grad_norm = norm
        self.overflow = not self.has_gradient
        return not self.overflow

    def note_local(self, norms: torch.Tensor) -> bool:
        """The same for the ranks' own gradients (ranks,), which are known to all: left out if none is finite."""
        finite = norms[norms.isfinite()]
        self._global_grad_norm = finite.square().mean().sqrt()
        self.overflow = finite.numel() == 0
        return not self.overflow

    def move(self, views: list[torch.Tensor], group: dict[str, Any]) -> None:
        """Add a group's part of `self.update`, given as `views`, to its weights, after decoupled weight decay."""
        if group["weight_decay"]:
            torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(group["params"], views)

    def groups(self) -> Iterator[tuple[slice, list[torch.Tensor], dict[str, Any]]]:
        """Each parameter group with its span of the vectors, and with its tensors' views of `self.update`."""
        updates = iter(self._updates)
        for span, group in zip(self.spans, self.param_groups, strict=True):
            yield span, [next(updates) for _ in group["params"]], group

    # --- checkpoints --------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state of the same parameters."""
        super().load_state_dict(state_dict)
        for parameter, (momentum, variance) in zip(self.parameters, self._moments, strict=True):
            loaded = self.state[parameter]
            momentum.copy_(loaded["exp_avg"])
            variance.copy_(loaded["exp_avg_sq"])
        self._link_state()
        self.switch_exchange()

    def _link_state(self) -> None:
        for parameter, (momentum, variance) in zip(self.parameters, self._moments, strict=True):
            self.state[parameter] = {"exp_avg": momentum, "exp_avg_sq": variance}

    def rank_state(self) -> dict[str, Any]:
        """What this rank alone knows; without it a resumed run is another one."""
        return self.compressed.state_dict()

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        """See `SyncStrategy.load_rank_state`."""
        if is_own:
            self.compressed.load_state_dict(state)

    # --- Adam's parts -------------------------------------------------------------------------------------------

    def root(self, variance: torch.Tensor, updates: int, out: torch.Tensor) -> torch.Tensor:
        """sqrt(v) + eps of a second moment, bias-corrected for its `updates`."""
        group = self.param_groups[0]
        torch.div(variance, 1 - group["betas"][1] ** updates, out=out)
        return out.sqrt_().add_(group["eps"])

    def floored_root(self, variance: torch.Tensor, updates: int, out: torch.Tensor) -> torch.Tensor:
        """The same with `VARIANCE_FLOOR`."""
        blocks = variance.view(-1, self.layout.block)
        floor = blocks.sum(1).div_(self.layout.counts).mul_(VARIANCE_FLOOR)
        torch.maximum(blocks, floor[:, None], out=out.view(-1, self.layout.block))
        return self.root(out, updates, out=out)
