"""The detection head: feature maps to logits, and logits to boxes in pixels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolo.architecture import ANCHORS_PER_LEVEL

EXPECTED_OBJECTS = 8
"""Objects per image at 640 pixels; sets the initial objectness bias (focal loss paper, 3.3; arXiv 1708.02002)."""


class Detect(nn.Module):
    """One 1x1 convolution per level: 4 box numbers, objectness and one logit per class for each cell and anchor.

    `anchors` is a buffer (levels, 3, 2) in grid units (pixels / stride), as in public weights.
    """

    anchors: Tensor

    def __init__(
        self, in_channels: Sequence[int], strides: tuple[int, ...], classes: int, anchors: Tensor
    ):
        super().__init__()
        self.strides = strides
        self.classes = classes
        self.register_buffer("anchors", anchors / _column(strides, anchors.device))
        outputs = ANCHORS_PER_LEVEL * (5 + classes)
        self.m = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for channels in in_channels)
        self._initialize_biases()

    @property
    def anchors_pixels(self) -> Tensor:
        """Anchor widths and heights, (levels, 3, 2), in pixels, at least fp32."""
        anchors = at_least_fp32(self.anchors)
        return anchors * _column(self.strides, anchors.device)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Feature maps (B, channels, H / s, W / s) to raw logits (B, 3, H / s, W / s, 5 + classes)."""
        return tuple(
            convolution(level).unflatten(1, (ANCHORS_PER_LEVEL, -1)).permute(0, 1, 3, 4, 2)
            for convolution, level in zip(self.m, features, strict=True)
        )

    def decode(self, raw_levels: Sequence[Tensor]) -> Tensor:
        """Raw logits to predictions (B, N, 5 + classes): centre x, centre y, width, height in pixels, scores in 0..1.

        N runs over the levels, within a level over the anchors, within an anchor over the cells row by row.
        """
        decoded = []
        levels = zip(raw_levels, self.strides, self.anchors_pixels, strict=True)
        for raw, stride, anchors in levels:  # (B, 3, rows, columns, 5 + classes), pixels, (3, 2)
            y, x = (torch.arange(length, device=raw.device) for length in raw.shape[2:4])
            corner = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (rows, columns, 2)
            sigmoid = at_least_fp32(raw).sigmoid()
            centre = (cell_offset(sigmoid[..., 0:2]) + corner) * stride
            size = box_shape(sigmoid[..., 2:4], anchors[:, None, None])
            decoded.append(torch.cat((centre, size, sigmoid[..., 4:]), dim=-1).flatten(1, 3))
        return torch.cat(decoded, dim=1)

    @torch.no_grad()
    def _initialize_biases(self) -> None:
        """Shift the score biases to rare objects, so that the first steps need not learn this.

        With one class, its logit is not trained and shifts by 11: the score stays 1 and objectness decides.
        """
        for convolution, stride in zip(self.m, self.strides, strict=True):
            assert isinstance(convolution.bias, Tensor)
            bias = convolution.bias.view(ANCHORS_PER_LEVEL, -1)
            bias[:, 4] += math.log(EXPECTED_OBJECTS / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.classes - 0.99999))


def cell_offset(sigmoid: Tensor) -> Tensor:
    """Box centre from its cell's upper left corner, in cells: -0.5..1.5, so that two neighbours can reach it too."""
    return 2 * sigmoid - 0.5


def box_shape(sigmoid: Tensor, anchors: Tensor) -> Tensor:
    """Box width and height in the anchors' unit: 0..4 times the anchor, hence the matching threshold of 4."""
    return (2 * sigmoid) ** 2 * anchors


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Convert half precision to fp32; finer types are unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _column(strides: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(strides, device=device).view(-1, 1, 1)
