"""The loss that a recipe asks for."""

from yolo.model import YOLOv5
from yolo.model.loss import DetectionLoss
from yolo.recipe.schema.recipe import Recipe


def detection_loss(model: YOLOv5, recipe: Recipe) -> DetectionLoss:
    """The loss of a plain network; a wrapped or sharded one no longer knows its anchors."""
    return DetectionLoss(
        anchors=model.anchors,
        strides=model.stride,
        classes=model.classes,
        image_size=recipe.model.image_size,
        box=recipe.loss.box,
        obj=recipe.loss.obj,
        cls=recipe.loss.cls,
        anchor_threshold=recipe.model.anchor_threshold,
        label_smoothing=recipe.loss.label_smoothing,
    )
