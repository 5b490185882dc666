"""YOLOv5 from its table."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo.model.head import Detect
from yolo.model.layers import C3, SPPF, Concat, Conv
from yolo.recipe.architecture import COCO_ANCHORS, Block, Layer, layers, strides

Anchors = Sequence[Sequence[Sequence[float]]]


class YOLOv5(nn.Module):
    """The detector; its state dict has the public code's names and shapes, `model.0.conv.weight` to `model.24.m.2.bias`.

    `variant` is n, s, m, l or x; `anchors` (3, 3, 2) are widths and heights in pixels for the strides 8, 16 and 32,
    COCO's where None. ValueError for an unknown variant, no classes or anchors of another shape.
    """

    def __init__(self, variant: str = "n", classes: int = 80, anchors: Anchors | None = None):
        super().__init__()
        if classes < 1:
            raise ValueError(f"{classes} classes: expected at least 1")
        self.variant = variant
        self.classes = classes
        self.stride = strides(variant)
        self._layers = layers(variant)
        self._read_later = {
            source
            for index, layer in enumerate(self._layers)
            for source in layer.sources
            if source != index - 1
        }
        sizes = _anchor_tensor(COCO_ANCHORS if anchors is None else anchors)
        *body, head = self._layers
        self.model = nn.ModuleList(_module(layer) for layer in body)
        self.model.append(Detect(head.in_channels, self.stride, classes, sizes))

    @property
    def anchors(self) -> Tensor:
        """Anchor widths and heights, (3, 3, 2), in pixels."""
        return self._detect.anchors_pixels

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Raw logits a level while training, decoded predictions after `eval()`.

        images: (B, 3, H, W) in 0..1, H and W multiples of 32 (else ValueError). Training: three tensors
        (B, 3, H / s, W / s, 5 + classes). Evaluation: as `decode` gives them.
        """
        self._check(images)
        features: Any = images
        kept: dict[int, Tensor] = {}
        for index, (layer, module) in enumerate(zip(self._layers, self.model, strict=True)):
            before = index - 1
            features = module(*(features if s == before else kept[s] for s in layer.sources))
            if index in self._read_later:
                kept[index] = features
        raw_levels: tuple[Tensor, ...] = features
        return raw_levels if self.training else self.decode(raw_levels)

    def decode(self, raw_levels: Sequence[Tensor]) -> Tensor:
        """What training returns, as predictions (B, N, 5 + classes) in fp32.

        Centre x, centre y, width and height in pixels of the images, then objectness and class scores in 0..1;
        N is 3 times the cells of all levels, 25,200 at 640 x 640.
        """
        return self._detect.decode(raw_levels)

    @property
    def _detect(self) -> Detect:
        head = self.model[-1]
        assert isinstance(head, Detect)
        return head

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W)")
        height, width = images.shape[2:]
        coarsest = self.stride[-1]
        if height % coarsest or width % coarsest:
            raise ValueError(
                f"images of {height} x {width} pixels (H x W): expected multiples of {coarsest}"
            )


def _anchor_tensor(anchors: Anchors) -> Tensor:
    sizes = torch.as_tensor(anchors, dtype=torch.float32)
    if sizes.shape != (3, 3, 2):
        raise ValueError(
            f"anchors of shape {tuple(sizes.shape)}: expected (3, 3, 2), a width and a height in"
            " pixels for each of 3 anchors on each of 3 levels"
        )
    return sizes


def _module(layer: Layer) -> nn.Module:
    channels = sum(layer.in_channels)
    match layer.block:
        case Block.CONV:
            return Conv(channels, layer.out_channels, layer.kernel, layer.stride)
        case Block.C3:
            return C3(channels, layer.out_channels, layer.repeats, layer.has_shortcut)
        case Block.SPPF:
            return SPPF(channels, layer.out_channels, layer.kernel)
        case Block.UPSAMPLE:
            return nn.Upsample(scale_factor=2, mode="nearest")
        case Block.CONCAT:
            return Concat()
        case _:
            raise ValueError(f"{layer.block} is not a layer of the body")
