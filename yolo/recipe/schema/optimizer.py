"""`optimizer`: the update rule, under the name and with the parameters that DeepSpeed gives it."""

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

Epsilon = Annotated[float, Field(gt=0.0, le=0.1, allow_inf_nan=False), BeforeValidator(refuse_bool)]


class SGDSection(Section):
    """Stochastic gradient descent with momentum, the public YOLOv5's own."""

    type: Literal["SGD"] = setting("SGD")
    """The name DeepSpeed knows it by."""
    lr: Rate = setting(0.01)
    """Learning rate after warm-up; it applies to a gradient summed over the global batch, so that a step grows with the batch as it is, and `train.base_batch` leaves it alone."""
    momentum: Momentum = setting(0.937)
    """Share of the last step that goes on."""
    nesterov: bool = setting(True)
    """Look ahead by the momentum."""
    weight_decay: Share = setting(0.0005)
    """For a global batch of 64; scaled by global_batch / 64, because the gradient it is added to is a sum over the batch. Convolution weights only."""


class _AdamSection(Section):
    """What Adam and its relatives have in common."""

    type: str = setting()
    lr: Rate = setting(0.001)
    """Learning rate after warm-up; where the global batch is not `train.base_batch`, times the square root of their ratio."""
    betas: tuple[Momentum, Momentum] = setting((0.9, 0.999))
    """Decay of the first and of the second moment."""
    eps: Epsilon = setting(1e-8)
    """Added to the root of the second moment."""
    weight_decay: Share = setting(0.0005)
    """Decoupled: times the learning rate; convolution weights only."""


class AdamWSection(_AdamSection):
    """Adam with decoupled weight decay."""

    type: Literal["AdamW"] = setting("AdamW")
    """The name DeepSpeed knows it by."""


class OneBitAdamSection(_AdamSection):
    """1-bit Adam: after `freeze_step` ranks exchange the signs of their momentum instead of gradients. ZeRO stage 0 only; DeepSpeed dropped it in 0.19.7, and this is our own."""

    type: Literal["OneBitAdam"] = setting("OneBitAdam")
    """The name DeepSpeed knew it by."""
    freeze_step: Auto | Count = setting("auto")
    """Steps of plain Adam, in which the second moment settles. `auto` waits for the learning rate's warm-up and then until that moment's L1 norm stays within 4% over 1 / (1 - beta2) steps or a twentieth of the run, at the latest for a quarter of the run."""


class ZeroOneAdamSection(_AdamSection):
    """0/1 Adam: signs from the start, full gradients only where the second moment is renewed, then local steps. ZeRO stage 0 only; DeepSpeed dropped it in 0.19.7, and this is our own."""

    type: Literal["ZeroOneAdam"] = setting("ZeroOneAdam")
    """The name DeepSpeed knew it by."""
    var_freeze_step: Auto | Count = setting("auto")
    """Steps after which the second moment stays; `auto` is the end of the learning rate's warm-up."""
    var_update_scaler: Count = setting(16)
    """Renewals of the second moment after which the interval between them doubles."""
    local_step_scaler: Auto | Count = setting("auto")
    """Steps after which the interval between exchanges doubles; `auto` reaches local_step_clipper in the first half of what var_freeze_step leaves of the run."""
    local_step_clipper: Count = setting(16)
    """Longest interval between exchanges, in steps; 1 exchanges at each."""


class OneBitLambSection(_AdamSection):
    """1-bit LAMB, for large global batches: as OneBitAdam, with a trust ratio for each tensor. ZeRO stage 0 only; DeepSpeed dropped it in 0.19.7, and this is our own."""

    type: Literal["OneBitLamb"] = setting("OneBitLamb")
    """The name DeepSpeed knew it by."""
    lr: Rate = setting(0.005)
    """Learning rate after warm-up; a trust ratio for each tensor scales it, and the batch as for AdamW."""
    weight_decay: Share = setting(0.0005)
    """Added to the direction, before the trust ratio; convolution weights only."""
    freeze_step: Auto | Count = setting("auto")
    """Steps of plain LAMB; `auto` as for OneBitAdam."""
    max_coeff: Gain = setting(10.0)
    """Largest trust ratio."""
    min_coeff: Gain = setting(0.01)
    """Smallest trust ratio."""
    coeff_beta: Momentum = setting(0.9)
    """Decay of the trust ratio's running mean, which is kept after freeze_step."""
    factor_max: Gain = setting(4.0)
    """Largest factor on the kept trust ratio."""
    factor_min: Gain = setting(0.5)
    """Smallest factor on it."""
    factor_threshold: Share = setting(0.1)
    """By what share of itself the factor may change in a step."""


OptimizerSection = Annotated[
    SGDSection | AdamWSection | OneBitAdamSection | ZeroOneAdamSection | OneBitLambSection,
    Field(discriminator="type"),
]
ADAM_FAMILY = ("AdamW", "OneBitAdam", "ZeroOneAdam")
"""Types that take the same steps but for what compression leaves out: a learning rate for one is one for all."""
ADAM_PARAMETERS = ("lr", "betas", "eps", "weight_decay")
"""What they have in common."""
ONE_BIT = ("OneBitAdam", "ZeroOneAdam", "OneBitLamb")
"""Types that exchange momentum at one bit an element, and are ours: DeepSpeed is handed the optimizer itself."""
