"""YOLOv5, built from its table of layers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo.architecture import ANCHORS_PER_LEVEL, Anchors, Block, Layer, family, layers, strides
from yolo.model.head import Detect
from yolo.model.layers import C3, SPPF, Concat, Conv


class YOLOv5(nn.Module):
    """The detector. Its state dict has the public code's names and shapes, `model.0.conv.weight` to `model.24.m.2.bias`.

    `variant` is n, s, m, l or x (three levels, strides 8, 16 and 32) or n6 to x6 (a fourth level, stride 64).
    `anchors` (levels, 3, 2) are widths and heights in pixels, by default COCO's. ValueError for an unknown variant, no
    classes or anchors of another shape.
    """

    def __init__(self, variant: str = "n", classes: int = 80, anchors: Anchors | None = None):
        super().__init__()
        if classes < 1:
            raise ValueError(f"{classes} classes: expected at least 1")
        self.variant = variant
        self.classes = classes
        self.stride = strides(variant)
        self._layers = layers(variant)
        sources = ((i, source) for i, layer in enumerate(self._layers) for source in layer.sources)
        self._read_later = {source for i, source in sources if source < i - 1}
        if anchors is None:
            anchors = family(variant).anchors
        sizes = torch.as_tensor(anchors, dtype=torch.float32)
        expected = (len(self.stride), ANCHORS_PER_LEVEL, 2)
        if sizes.shape != expected:
            raise ValueError(
                f"anchors of shape {tuple(sizes.shape)}: expected {expected}, width and height in pixels of"
                f" {ANCHORS_PER_LEVEL} anchors on each of yolov5{variant}'s {len(self.stride)} levels"
            )
        *body, head = self._layers
        self.model = nn.ModuleList(_module(layer) for layer in body)
        self.model.append(Detect(head.in_channels, self.stride, classes, sizes))

    @property
    def anchors(self) -> Tensor:
        """Anchor widths and heights, (levels, 3, 2), in pixels."""
        return self._detect.anchors_pixels

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Raw logits while training, decoded predictions after `eval()`.

        images: (B, 3, H, W) in 0..1, H and W multiples of the largest stride (else ValueError). Training: one tensor
        per level, (B, 3, H / s, W / s, 5 + classes). Evaluation: see `decode`.
        """
        self._check(images)
        features: Any = images
        saved: dict[int, Tensor] = {}
        for index, (layer, module) in enumerate(zip(self._layers, self.model, strict=True)):
            before = index - 1
            features = module(*(features if s == before else saved[s] for s in layer.sources))
            if index in self._read_later:
                saved[index] = features
        return features if self.training else self.decode(features)

    def decode(self, raw_levels: Sequence[Tensor]) -> Tensor:
        """Decode training's output to predictions (B, N, 5 + classes) in fp32.

        Centre x, centre y, width and height in pixels of the images, then objectness and class scores in 0..1.
        N is 3 times the cells of all levels: 25,200 for three levels at 640 x 640.
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
