"""The network, its loss, its anchors, its weights."""

from yolo.model.network import YOLOv5

__all__ = ["YOLOv5"]
