"""`evaluation`: how often and how the network is judged."""

from yolo.recipe.schema.fields import Count, Section, Share, setting


class EvaluationSection(Section):
    """COCO average precision on the validation split."""

    every_epochs: Count = setting(1, unit="epochs")
    """Evaluate after every so many epochs, and after the last."""
    confidence: Share = setting(0.001)
    """Detections below this are dropped before non-maximum suppression."""
    iou: Share = setting(0.6)
    """Of two boxes of one class that overlap more than this, the less certain is dropped."""
    max_detections: Count = setting(300, unit="detections an image")
    """The most certain are kept."""
    rectangular: bool = setting(True)
    """Each image lies in the smallest rectangle that the network takes, not in a square: less grey to compute."""
