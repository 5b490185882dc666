"""`optimizer`: the update rule, with DeepSpeed's names and parameters."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yolo.recipe.schema.fields import (
    Auto,
    Count,
    Gain,
    Momentum,
    Rate,
    Section,
    Share,
    refuse_bool,
    setting,
)

Epsilon = Annotated[float, Field(gt=0.0, le=0.1), BeforeValidator(refuse_bool)]


class SGDSection(Section):
    """Stochastic gradient descent with momentum, the public YOLOv5's own."""

    type: Literal["SGD"] = setting("SGD")
    """DeepSpeed's name."""
    lr: Rate = setting(0.01)
    """Learning rate after warm-up. It applies to a gradient summed over the global batch, so a step grows with the batch, and `train.base_batch` does not scale it."""
    momentum: Momentum = setting(0.937)
    """Share of the last step that is added to the next."""
    nesterov: bool = setting(True)
    """Look ahead by the momentum."""
    weight_decay: Share = setting(0.0005)
    """For a global batch of 64; scaled by global_batch / 64, because it is added to a gradient that is a sum over the batch. Convolution weights only."""


class _AdamSection(Section):
    """Parameters of Adam and the optimizers derived from it."""

    type: str = setting()
    lr: Rate = setting(0.001)
    """Learning rate after warm-up; if the global batch is not `train.base_batch`, times the square root of their ratio."""
    betas: tuple[Momentum, Momentum] = setting((0.9, 0.999))
    """Decay of the first and of the second moment."""
    eps: Epsilon = setting(1e-8)
    """Added to the root of the second moment."""
    weight_decay: Share = setting(0.0005)
    """Decoupled: times the learning rate; convolution weights only."""


class AdamWSection(_AdamSection):
    """Adam with decoupled weight decay."""

    type: Literal["AdamW"] = setting("AdamW")
    """DeepSpeed's name."""


class OneBitAdamSection(_AdamSection):
    """1-bit Adam: after `freeze_step` ranks exchange the signs of their momentum instead of gradients. ZeRO stage 0 only; our own, since DeepSpeed dropped it in 0.19.7."""

    type: Literal["OneBitAdam"] = setting("OneBitAdam")
    """DeepSpeed's name until it dropped it."""
    freeze_step: Auto | Count = setting("auto")
    """Steps of plain Adam, in which the second moment settles. `auto` lasts for the learning rate's warm-up, and then until that moment's L1 norm stays within 4% over 1 / (1 - beta2) steps or a twentieth of the run; at most a quarter of the run."""


class ZeroOneAdamSection(_AdamSection):
    """0/1 Adam: signs from the start, full gradients only when the second moment is updated, then local steps. ZeRO stage 0 only; our own, since DeepSpeed dropped it in 0.19.7."""

    type: Literal["ZeroOneAdam"] = setting("ZeroOneAdam")
    """DeepSpeed's name until it dropped it."""
    var_freeze_step: Auto | Count = setting("auto")
    """Steps after which the second moment is fixed. `auto` is the end of the learning rate's warm-up."""
    var_update_scaler: Count = setting(16)
    """Updates of the second moment after which the interval between them doubles."""
    local_step_scaler: Auto | Count = setting("auto")
    """Steps after which the interval between syncs doubles. `auto` reaches local_step_clipper in the first half of the steps after var_freeze_step."""
    local_step_clipper: Count = setting(16)
    """Longest interval between syncs, in steps; 1 syncs at each step."""


class OneBitLambSection(_AdamSection):
    """1-bit LAMB, for large global batches: as OneBitAdam, with a trust ratio per tensor. ZeRO stage 0 only; our own, since DeepSpeed dropped it in 0.19.7."""

    type: Literal["OneBitLamb"] = setting("OneBitLamb")
    """DeepSpeed's name until it dropped it."""
    lr: Rate = setting(0.005)
    """Learning rate after warm-up, scaled by a trust ratio per tensor, and by the batch as for AdamW."""
    weight_decay: Share = setting(0.0005)
    """Added to the direction, before the trust ratio; convolution weights only."""
    freeze_step: Auto | Count = setting("auto")
    """Steps of plain LAMB; `auto` as for OneBitAdam."""
    max_coeff: Gain = setting(10.0)
    """Largest trust ratio."""
    min_coeff: Gain = setting(0.01)
    """Smallest trust ratio."""
    coeff_beta: Momentum = setting(0.9)
    """Decay of the trust ratio's running mean, which is fixed after freeze_step."""
    factor_max: Gain = setting(4.0)
    """Largest factor on the fixed trust ratio."""
    factor_min: Gain = setting(0.5)
    """Smallest factor on it."""
    factor_threshold: Share = setting(0.1)
    """Largest relative change of the factor per step."""


OptimizerSection = Annotated[
    SGDSection | AdamWSection | OneBitAdamSection | ZeroOneAdamSection | OneBitLambSection,
    Field(discriminator="type"),
]
ADAM_FAMILY = ("AdamW", "OneBitAdam", "ZeroOneAdam")
"""Types that take the same steps, up to compression: a learning rate for one fits all."""
ADAM_PARAMETERS = ("lr", "betas", "eps", "weight_decay")
"""The parameters they share."""
ONE_BIT = ("OneBitAdam", "ZeroOneAdam", "OneBitLamb")
"""Types that exchange momentum at one bit per element. They are ours: DeepSpeed receives the optimizer object."""
