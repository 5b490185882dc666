"""`model`: which network, at which size, from which weights."""

from typing import Annotated, Literal

from pydantic import Field

from yolo.recipe.schema.fields import Auto, ImageSize, Momentum, Rate, Section, setting

Variant = Literal["n", "s", "m", "l", "x", "n6", "s6", "m6", "l6", "x6"]
Pixels = Annotated[float, Field(gt=0.0, le=8192.0, allow_inf_nan=False)]
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
    """A safetensors file to start from; tensors that do not fit (another number of classes) are left at random and named."""
    sync_batchnorm: Auto | bool = setting("auto")
    """Take BatchNorm statistics over all ranks' images, by two small collectives a layer; GPUs only. `auto` does where a rank computes fewer than 8 images at once, and ranks take every step together."""
    batchnorm_momentum: Auto | Momentum = setting("auto")
    """Share of a micro batch's statistics in BatchNorm's running ones, which evaluation uses; `auto` is 0.03, and more where `train.base_batch` scales the recipe, so that they look back over the same images."""
    anchors: Literal["auto", "default"] | P5Anchors | P6Anchors = setting("auto", unit="pixels")
    """`default`: COCO's. `auto`: COCO's unless fewer than 98% of the boxes find one, then fitted to the data. Or a list a level (three, for n6 to x6 four) of three [width, height]."""
    anchor_threshold: Rate = setting(4.0)
    """A box matches an anchor when neither side differs by more than this factor."""
