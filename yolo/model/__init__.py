"""The network, its loss, its anchors, its weights."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo.model.network import YOLOv5

__all__ = ["YOLOv5"]


def __getattr__(name: str) -> Any:
    """Import torch with the network only: `yolo check` reads the header of weights without it."""
    if name == "YOLOv5":
        from yolo.model.network import YOLOv5

        return YOLOv5
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
