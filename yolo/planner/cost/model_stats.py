"""A network as the planner sees it: its tensors, the order of their gradients, its work and what backward keeps.

Read from model_stats.json, which `python -m yolo.bench.model_stats` measures on the network itself.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).with_name("model_stats.json")
CLASSES = 80
"""Of the networks in the snapshot."""
IMAGE_SIZE = 640
"""At which they were measured, in pixels; work and activations grow with the area."""
_HEAD_CHANNELS = 3 * (5 + CLASSES)
"""Of the head's convolutions: the one size that depends on the classes, and that no other layer has."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One trainable tensor."""

    shape: tuple[int, ...]
    group: str
    """Of the optimizer: biases, weights or norms."""
    output_elements: float
    """What a convolution with this weight writes for one image; 0 for other tensors."""

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Network:
    """What the cost of training depends on."""

    name: str
    tensors: tuple[Tensor, ...]
    """As `parameters()` gives them."""
    ready_order: tuple[int, ...]
    """Their indices, in the order in which backward completes their gradients."""
    forward_flops: float
    """Floating-point operations of a forward pass over one image, a multiplication and an addition counting as two."""
    kept_bytes: dict[str, float]
    """What backward keeps of one image, by precision."""

    @property
    def elements(self) -> int:
        """Trainable numbers."""
        return sum(tensor.elements for tensor in self.tensors)

    def group_elements(self) -> list[int]:
        """Trainable numbers of each of the optimizer's groups, in its order."""
        return [
            sum(tensor.elements for tensor in self.tensors if tensor.group == group)
            for group in GROUPS
        ]

    def ready(self) -> Sequence[Tensor]:
        """Tensors in the order in which backward completes their gradients."""
        return [self.tensors[index] for index in self.ready_order]


GROUPS = ("biases", "weights", "norms")
"""The optimizer's parameter groups, in its order."""


@cache
def yolov5(variant: str, classes: int = CLASSES, image_size: int = IMAGE_SIZE) -> Network:
    """A variant of YOLOv5 for a number of classes at an image size in pixels."""
    facts = _snapshot()[variant]
    area = (image_size / IMAGE_SIZE) ** 2
    tensors = tuple(
        Tensor(tuple(_resized(size, classes) for size in shape), group, written * area)
        for shape, group, written in facts["tensors"]
    )
    return Network(
        name=f"yolov5{variant}",
        tensors=tensors,
        ready_order=tuple(facts["ready_order"]),
        forward_flops=facts["forward_flops_per_image"] * area,
        kept_bytes={dtype: kept * area for dtype, kept in facts["kept_bytes_per_image"].items()},
    )


def _resized(size: int, classes: int) -> int:
    return 3 * (5 + classes) if size == _HEAD_CHANNELS else size


@cache
def _snapshot() -> Any:
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))
