"""`loss`: the weight of each part of YOLOv5's loss."""

from yolo.recipe.schema.fields import Gain, Section, Share, setting


class LossSection(Section):
    """Gains as the public YOLOv5 states them: for 3 levels, 80 classes and 640 pixels; they are scaled to the case at hand."""

    box: Gain = setting(0.05)
    """Weight of the box loss (1 - CIoU)."""
    obj: Gain = setting(1.0)
    """Weight of the objectness loss, scaled by (image_size / 640) squared."""
    cls: Gain = setting(0.5)
    """Weight of the class loss, scaled by classes / 80."""
    label_smoothing: Share = setting(0.0)
    """Class targets become 1 - half of this, and half of this."""
