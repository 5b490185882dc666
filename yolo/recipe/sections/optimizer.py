"""`optimizer`: the update rule, under the name and with the parameters that DeepSpeed gives it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yolo.recipe.section import Momentum, Rate, Section, Share, refuse_bool, setting

Epsilon = Annotated[float, Field(gt=0.0, le=0.1, allow_inf_nan=False), BeforeValidator(refuse_bool)]


class SGDSection(Section):
    """Stochastic gradient descent with momentum, the public YOLOv5's own."""

    type: Literal["SGD"] = setting("SGD")
    """The name DeepSpeed knows it by."""
    lr: Rate = setting(0.01)
    """Learning rate after warm-up; it applies to a gradient summed over the global batch."""
    momentum: Momentum = setting(0.937)
    """Share of the last step that goes on."""
    nesterov: bool = setting(True)
    """Look ahead by the momentum."""
    weight_decay: Share = setting(0.0005)
    """For a global batch of 64; scaled by global_batch / 64, because the gradient it is added to is a sum over the batch. Convolution weights only."""


class AdamWSection(Section):
    """Adam with decoupled weight decay."""

    type: Literal["AdamW"] = setting("AdamW")
    """The name DeepSpeed knows it by."""
    lr: Rate = setting(0.001)
    """Learning rate after warm-up."""
    betas: tuple[Momentum, Momentum] = setting((0.9, 0.999))
    """Decay of the first and of the second moment."""
    eps: Epsilon = setting(1e-8)
    """Added to the root of the second moment."""
    weight_decay: Share = setting(0.0005)
    """Decoupled: times the learning rate; convolution weights only."""


OptimizerSection = Annotated[SGDSection | AdamWSection, Field(discriminator="type")]
