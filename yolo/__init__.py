"""Train YOLOv5 on clusters with DeepSpeed and with less communication."""

__version__ = "1.0.0"
