"""`model`, `loss` and `precision`: the network, its loss, and the number format of both."""

from typing import Annotated, Literal

from pydantic import Field

from yolo.recipe.schema.fields import (
    Auto,
    Gain,
    ImageSize,
    Momentum,
    Rate,
    Section,
    Share,
    setting,
)

Variant = Literal["n", "s", "m", "l", "x", "n6", "s6", "m6", "l6", "x6"]
Pixels = Annotated[float, Field(gt=0.0, le=8192.0)]
AnchorShape = tuple[Pixels, Pixels]
LevelAnchors = tuple[AnchorShape, AnchorShape, AnchorShape]
P5Anchors = tuple[LevelAnchors, LevelAnchors, LevelAnchors]
P6Anchors = tuple[LevelAnchors, LevelAnchors, LevelAnchors, LevelAnchors]


class ModelSection(Section):
    """The network."""

    variant: Variant = setting("n")
    """Size of the network: n 1.9, s 7.2, m 21.2, l 46.6 or x 86.7 million parameters with 80 classes. With a 6: one more level, for large objects at 1280 pixels; 3.2 to 140.8 million."""
    image_size: ImageSize = setting(640, unit="pixels")
    """Side of the square that images are fitted into; a multiple of 32, for n6 to x6 of 64."""
    weights: str | None = setting(None)
    """Weights to start from: a safetensors file, or a checkpoint of the public YOLOv5 (*.pt). Tensors that do not fit (another number of classes) stay random and are logged; if no learned one fits, the run does not start."""
    sync_batchnorm: Auto | bool = setting("auto")
    """Compute BatchNorm statistics over the images of all ranks of a node, with two small collectives per layer inside it. `auto`: on with GPUs if a rank computes fewer than 8 images at once, a node has several ranks and ranks synchronise in every step. The ranks of an image (`sharding.columns`) share theirs in any case."""
    batchnorm_momentum: Auto | Momentum = setting("auto")
    """Share of a micro batch's statistics in BatchNorm's running ones, which evaluation uses. `auto` is 0.03; it is more if `train.base_batch` scales the recipe, so that they look back over the same images."""
    anchors: Literal["auto", "default"] | P5Anchors | P6Anchors = setting("auto", unit="pixels")
    """`default`: COCO's. `auto`: COCO's unless fewer than 98% of the boxes match one, then fitted to the data. Or one list per level (three, for n6 to x6 four) of three [width, height]."""
    anchor_threshold: Rate = setting(4.0)
    """A box matches an anchor if neither side differs by more than this factor."""


class LossSection(Section):
    """Gains as the public YOLOv5 states them, for 3 levels, 80 classes and 640 pixels; they are scaled to the run's."""

    box: Gain = setting(0.05)
    """Weight of the box loss (1 - CIoU)."""
    obj: Gain = setting(1.0)
    """Weight of the objectness loss, scaled by (image_size / 640) squared."""
    cls: Auto | Gain = setting("auto")
    """Weight of the class loss, scaled by classes / 80. `auto` is the public YOLOv5's 0.5, and more for each box that is found but not classified yet: up to 8 times as much. In a short run, 0.5 for all boxes hardly learns classes."""
    label_smoothing: Share = setting(0.0)
    """Class targets become 1 - half of this, and half of this."""


class PrecisionSection(Section):
    """Mixed precision by DeepSpeed's `torch_autocast`: parameters, BatchNorm and the loss stay in fp32."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto")
    """Number format of convolutions. fp16 scales the loss, and needs a GPU or a CPU with fp16 arithmetic. `auto`: bf16 if every rank's hardware has it, unless a short measurement at the start shows that it clearly loses (at most 0.8 times as fast), else fp32; until then it counts as fp32."""
