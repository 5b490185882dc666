"""YOLOv5 as data: one table per family, to build the network from and to list its tensors. Never imports torch.

Checking a recipe needs the parameter count (gradient bytes, buckets, memory) and the shapes of weights, and must not wait for torch;
`yolo.model.network` builds modules from the same rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

ANCHORS_PER_LEVEL = 3
BATCHNORM_MOMENTUM = 0.03
"""As in the public YOLOv5; torch's default is 0.1."""

Shape = tuple[int, ...]
Anchors = tuple[tuple[tuple[float, float], ...], ...]
"""Widths and heights in pixels, three per level, fine to coarse."""

COCO_ANCHORS = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
"""P5 family: three per stride 8, 16 and 32."""

COCO_ANCHORS_P6 = (
    ((19.0, 27.0), (44.0, 40.0), (38.0, 94.0)),
    ((96.0, 68.0), (86.0, 152.0), (180.0, 137.0)),
    ((140.0, 301.0), (303.0, 264.0), (238.0, 542.0)),
    ((436.0, 615.0), (739.0, 380.0), (925.0, 792.0)),
)
"""P6 family: three per stride 8, 16, 32 and 64."""


class Block(StrEnum):
    """Kinds of layer; each but the last three has its class in `yolo.model.layers`."""

    CONV = "Conv"
    C3 = "C3"
    SPPF = "SPPF"
    UPSAMPLE = "Upsample"
    CONCAT = "Concat"
    DETECT = "Detect"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of the table, at width 1 and depth 1."""

    block: Block
    channels: int = 0
    """Output channels at width 1; 0 if they follow from the input."""
    kernel: int = 1
    stride: int = 1
    repeats: int = 1
    """Bottlenecks of a C3 at depth 1."""
    has_shortcut: bool = True
    """Whether the bottlenecks of a C3 add their input; those of the head do not."""
    sources: tuple[int, ...] = (-1,)
    """Layers whose outputs it reads; -1 is the previous layer."""


def _rows(*stages: tuple[int, int]) -> tuple[LayerSpec, ...]:
    """The table of a family, from (channels, C3 repeats) of each backbone stage, fine to coarse.

    The head goes from the coarsest stage to the second, and back. It reads the C3 of each stage on its way up.
    """
    rows = [LayerSpec(Block.CONV, 64, kernel=6, stride=2)]
    for channels, repeats in stages:
        rows.append(LayerSpec(Block.CONV, channels, kernel=3, stride=2))
        rows.append(LayerSpec(Block.C3, channels, repeats=repeats))
    rows.append(LayerSpec(Block.SPPF, stages[-1][0], kernel=5))
    laterals: list[int] = []
    for stage in range(len(stages) - 2, 0, -1):  # from coarse to fine
        laterals.append(len(rows))
        channels = stages[stage][0]
        rows.append(LayerSpec(Block.CONV, channels))
        rows.append(LayerSpec(Block.UPSAMPLE))
        rows.append(LayerSpec(Block.CONCAT, sources=(-1, 2 * stage + 2)))
        rows.append(LayerSpec(Block.C3, channels, repeats=3, has_shortcut=False))
    outputs = [len(rows) - 1]
    for (channels, _), (coarser, _) in pairwise(stages[1:]):  # and back from fine to coarse
        rows.append(LayerSpec(Block.CONV, channels, kernel=3, stride=2))
        rows.append(LayerSpec(Block.CONCAT, sources=(-1, laterals.pop())))
        rows.append(LayerSpec(Block.C3, coarser, repeats=3, has_shortcut=False))
        outputs.append(len(rows) - 1)
    return (*rows, LayerSpec(Block.DETECT, sources=tuple(outputs)))


@dataclass(frozen=True, slots=True)
class Family:
    """Variants that share a table and its anchors."""

    rows: tuple[LayerSpec, ...]
    anchors: Anchors
    """COCO's, at `image_size`."""
    image_size: int
    """Pixels; the public weights were trained at it."""


P5 = Family(_rows((128, 3), (256, 6), (512, 9), (1024, 3)), COCO_ANCHORS, image_size=640)
P6 = Family(
    _rows((128, 3), (256, 6), (512, 9), (768, 3), (1024, 3)), COCO_ANCHORS_P6, image_size=1280
)


@dataclass(frozen=True, slots=True)
class Variant:
    """A family, and how its table is scaled."""

    family: Family
    depth: float
    """Factor on the repeats of a C3."""
    width: float
    """Factor on the channels."""


VARIANTS = {
    "n": Variant(P5, depth=0.33, width=0.25),
    "s": Variant(P5, depth=0.33, width=0.50),
    "m": Variant(P5, depth=0.67, width=0.75),
    "l": Variant(P5, depth=1.00, width=1.00),
    "x": Variant(P5, depth=1.33, width=1.25),
    "n6": Variant(P6, depth=0.33, width=0.25),
    "s6": Variant(P6, depth=0.33, width=0.50),
    "m6": Variant(P6, depth=0.67, width=0.75),
    "l6": Variant(P6, depth=1.00, width=1.00),
    "x6": Variant(P6, depth=1.33, width=1.25),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of one variant, with all numbers needed to build it."""

    block: Block
    sources: tuple[int, ...]
    """Indices of the layers it reads; -1 is the images."""
    in_channels: tuple[int, ...]
    """Channels of each source."""
    out_channels: int
    """0 for Detect, whose outputs depend on the number of classes."""
    kernel: int
    stride: int
    repeats: int
    has_shortcut: bool
    reduction: int
    """Image pixels along one side of an output cell; 0 for Detect."""


def layers(variant: str) -> tuple[Layer, ...]:
    """The layers of a variant, from the images to Detect. Raises ValueError for an unknown variant."""
    scale = _variant(variant)
    built: list[Layer] = []
    for index, row in enumerate(scale.family.rows):
        sources = tuple(index - 1 if source == -1 else source for source in row.sources)
        in_channels = tuple(built[source].out_channels if source >= 0 else 3 for source in sources)
        scaled = math.ceil(row.channels * scale.width / 8) * 8
        reduction = built[sources[0]].reduction * row.stride if index else row.stride
        if row.block is Block.UPSAMPLE:
            reduction //= 2
        is_detect = row.block is Block.DETECT
        built.append(
            Layer(
                block=row.block,
                sources=sources,
                in_channels=in_channels,
                out_channels=0 if is_detect else scaled or sum(in_channels),
                kernel=row.kernel,
                stride=row.stride,
                repeats=max(round(row.repeats * scale.depth), 1),
                has_shortcut=row.has_shortcut,
                reduction=0 if is_detect else reduction,
            )
        )
    return tuple(built)


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution or max-pool that reads cells beside its own."""

    channels: int
    """Of its input."""
    reduction: int
    """Image pixels along one side of a cell of its input."""
    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        """Rounded down: the first layer's even kernel halves the image exactly."""
        return (self.kernel - 1) // 2


POOLS = 3
"""Max-pools of an SPPF, one after another."""


def windows(variant: str) -> tuple[Window, ...]:
    """The convolutions and max-pools with a kernel above 1, in the order of a forward pass."""
    return tuple(window for layer in layers(variant) for window in _windows(layer))


def _windows(layer: Layer) -> Iterator[Window]:
    channels, at = sum(layer.in_channels), layer.reduction
    match layer.block:
        case Block.CONV if layer.kernel > 1:
            yield Window(channels, at // layer.stride, layer.kernel, layer.stride)
        case Block.C3:
            for _ in range(layer.repeats):
                yield Window(layer.out_channels // 2, at, kernel=3, stride=1)
        case Block.SPPF:
            for _ in range(POOLS):
                yield Window(channels // 2, at, layer.kernel, stride=1)


def strides(variant: str) -> tuple[int, ...]:
    """Pixels along one side of a cell, per level of Detect: (8, 16, 32), and 64 in the P6 family."""
    table = layers(variant)
    return tuple(table[source].reduction for source in table[-1].sources)


def family(variant: str) -> Family:
    """The family of a variant. Raises ValueError for an unknown variant."""
    return _variant(variant).family


def parameter_count(variant: str, classes: int) -> int:
    """Trainable numbers in the network, without BatchNorm's running statistics."""
    return sum(layer_parameter_counts(variant, classes))


def tensor_shapes(variant: str, classes: int) -> dict[str, Shape]:
    """Names and shapes of the network's state dict. Raises ValueError for an unknown variant or no classes."""
    if classes < 1:
        raise ValueError(f"{classes} classes: expected at least 1")
    return {
        name: shape
        for index, layer in enumerate(layers(variant))
        for name, shape in _layer_shapes(f"model.{index}", layer, classes)
    }


def is_learned(name: str) -> bool:
    """Whether a tensor of the state dict is trained; BatchNorm's statistics and counters, and anchors, are not."""
    return name.endswith((".weight", ".bias"))


def layer_parameter_counts(variant: str, classes: int) -> tuple[int, ...]:
    """Trainable numbers per layer, computed from the table."""
    return tuple(_parameters(layer, classes) for layer in layers(variant))


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}: expected one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _parameters(layer: Layer, classes: int) -> int:
    shapes = _layer_shapes("", layer, classes)
    return sum(math.prod(shape) for name, shape in shapes if is_learned(name))


def _layer_shapes(name: str, layer: Layer, classes: int) -> Iterator[tuple[str, Shape]]:
    channels, out = sum(layer.in_channels), layer.out_channels
    match layer.block:
        case Block.CONV:
            yield from _conv_shapes(name, channels, out, layer.kernel)
        case Block.C3:
            half = out // 2
            yield from _conv_shapes(f"{name}.cv1", channels, half)
            yield from _conv_shapes(f"{name}.cv2", channels, half)
            yield from _conv_shapes(f"{name}.cv3", 2 * half, out)
            for number in range(layer.repeats):
                yield from _conv_shapes(f"{name}.m.{number}.cv1", half, half)
                yield from _conv_shapes(f"{name}.m.{number}.cv2", half, half, kernel=3)
        case Block.SPPF:
            half = channels // 2
            yield from _conv_shapes(f"{name}.cv1", channels, half)
            yield from _conv_shapes(f"{name}.cv2", 4 * half, out)
        case Block.DETECT:
            outputs = ANCHORS_PER_LEVEL * (5 + classes)
            yield f"{name}.anchors", (len(layer.in_channels), ANCHORS_PER_LEVEL, 2)
            for level, source in enumerate(layer.in_channels):
                yield f"{name}.m.{level}.weight", (outputs, source, 1, 1)
                yield f"{name}.m.{level}.bias", (outputs,)


def _conv_shapes(
    name: str, in_channels: int, out_channels: int, kernel: int = 1
) -> Iterator[tuple[str, Shape]]:
    """A convolution without bias, and BatchNorm."""
    yield f"{name}.conv.weight", (out_channels, in_channels, kernel, kernel)
    for tensor in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.bn.{tensor}", (out_channels,)
    yield f"{name}.bn.num_batches_tracked", ()
