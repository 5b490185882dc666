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
"""Classes of the networks in the snapshot."""
IMAGE_SIZE = 640
"""Pixels at which they were measured; work and activations grow with the area."""
_HEAD_CHANNELS = 3 * (5 + CLASSES)
"""Channels of the head's convolutions: the one size that depends on the classes, and that no other layer has."""
GROUPS = ("biases", "weights", "norms")
"""The optimizer's parameter groups, in its order."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One trainable tensor."""

    shape: tuple[int, ...]
    group: str
    """The optimizer's parameter group: biases, weights or norms."""
    output_elements: float
    """Elements that a convolution with this weight writes per image; 0 for other tensors."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Network:
    """What the cost of training depends on."""

    name: str
    tensors: tuple[Tensor, ...]
    """In the order of `parameters()`."""
    ready_order: tuple[int, ...]
    """Their indices, in the order in which backward completes their gradients."""
    forward_flops: float
    """Floating-point operations of a forward pass per image; a multiply-add counts as two."""
    kept_bytes: dict[str, float]
    """Bytes that backward keeps per image, by precision."""

    @property
    def elements(self) -> int:
        """Trainable parameters."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def fp32_bytes(self) -> float:
        """Bytes of one value per parameter in fp32: weights, gradients or a state of the optimizer."""
        return 4.0 * self.elements

    def group_elements(self) -> list[int]:
        """Trainable parameters per group of the optimizer, in its order."""
        return [sum(t.elements for t in self.tensors if t.group == group) for group in GROUPS]

    def ready(self) -> Sequence[Tensor]:
        """Tensors in the order in which backward completes their gradients."""
        return [self.tensors[index] for index in self.ready_order]


@cache
def yolov5(variant: str, classes: int = CLASSES, image_size: int = IMAGE_SIZE) -> Network:
    """A variant of YOLOv5 for a number of classes at an image size in pixels."""
    facts = _snapshot()[variant]
    area = (image_size / IMAGE_SIZE) ** 2
    head = {_HEAD_CHANNELS: 3 * (5 + classes)}
    return Network(
        name=f"yolov5{variant}",
        tensors=tuple(
            Tensor(tuple(head.get(size, size) for size in shape), group, written * area)
            for shape, group, written in facts["tensors"]
        ),
        ready_order=tuple(facts["ready_order"]),
        forward_flops=facts["forward_flops_per_image"] * area,
        kept_bytes={dtype: kept * area for dtype, kept in facts["kept_bytes_per_image"].items()},
    )


@cache
def _snapshot() -> Any:
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))
