"""Learning rates and momentum at every step: warm-up, then linear or cosine decay."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from yolo.recipe.schema.optimizer import SGDSection
from yolo.recipe.schema.recipe import Recipe


@dataclass(frozen=True, slots=True)
class StepRates:
    """Learning rates and momentum of one step."""

    lr: float
    bias_lr: float
    momentum: float | None
    """None if the optimizer has none to set."""


class LRSchedule:
    """The public YOLOv5's schedule over optimizer steps; it depends on the position only, so that a resumed run is exact."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.steps = steps_per_epoch * recipe.train.epochs
        asked = max(
            round(recipe.train.warmup_epochs * steps_per_epoch), recipe.train.warmup_min_steps
        )
        self.warmup_steps = min(asked, self.steps // 2) if recipe.train.warmup_epochs > 0 else 0

    def at(self, step: int) -> StepRates:
        """The rates of optimizer step `step`, counted from 0."""
        train, optimizer = self.recipe.train, self.recipe.optimizer
        # Constant within an epoch, as in the public trainer.
        lr = optimizer.lr * self._decay(min(1.0, step // self.steps_per_epoch / train.epochs))
        momentum = optimizer.momentum if isinstance(optimizer, SGDSection) else None
        if step >= self.warmup_steps:
            return StepRates(lr, lr, momentum)
        share = step / self.warmup_steps
        bias_lr = train.warmup_bias_lr + share * (lr - train.warmup_bias_lr)
        if momentum is not None:
            momentum = train.warmup_momentum + share * (momentum - train.warmup_momentum)
        return StepRates(lr * share, bias_lr, momentum)

    def apply(
        self, parameter_groups: Iterable[dict[str, Any]], step: int, factor: float = 1.0
    ) -> StepRates:
        """Set the rates of a step, times `factor`, in the optimizer's groups, which are known by name."""
        rates = self.at(step)
        rates = replace(rates, lr=rates.lr * factor, bias_lr=rates.bias_lr * factor)
        for group in parameter_groups:
            group["lr"] = rates.bias_lr if group["name"] == "biases" else rates.lr
            if rates.momentum is not None:
                group["momentum"] = rates.momentum
        return rates

    def _decay(self, progress: float) -> float:
        end = self.recipe.train.final_lr_fraction
        if self.recipe.train.schedule == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2 * (1 - end) + end
        return (1 - progress) * (1 - end) + end
