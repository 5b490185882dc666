"""YOLOv5's blocks. Attribute names are part of the weights format: `model.2.m.0.cv1.conv.weight`."""

import torch
from torch import Tensor, nn

from yolo.architecture import BATCHNORM_MOMENTUM

BATCHNORM_EPSILON = 1e-3


class Conv(nn.Module):
    """Convolution, BatchNorm and SiLU; (B, in, H, W) to (B, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        # Rounded down: the first layer's even kernel halves the image exactly.
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, BATCHNORM_EPSILON, BATCHNORM_MOMENTUM)
        # Not in place: the backward hooks of ZeRO-3 reject a module that overwrites its input.
        self.act = nn.SiLU()

    def forward(self, features: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(features)))


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution, plus the input if `has_shortcut`; shape unchanged."""

    def __init__(self, channels: int, has_shortcut: bool):
        super().__init__()
        self.cv1 = Conv(channels, channels, kernel=1)
        self.cv2 = Conv(channels, channels, kernel=3)
        self.has_shortcut = has_shortcut

    def forward(self, features: Tensor) -> Tensor:
        refined: Tensor = self.cv2(self.cv1(features))
        return features + refined if self.has_shortcut else refined


class C3(nn.Module):
    """Cross-stage partial block: half of the channels pass the bottlenecks, half skip them (arXiv 1911.11929)."""

    def __init__(self, in_channels: int, out_channels: int, repeats: int, has_shortcut: bool):
        super().__init__()
        half = out_channels // 2
        self.cv1 = Conv(in_channels, half)
        self.cv2 = Conv(in_channels, half)
        self.cv3 = Conv(2 * half, out_channels)
        self.m = nn.Sequential(*(Bottleneck(half, has_shortcut) for _ in range(repeats)))

    def forward(self, features: Tensor) -> Tensor:
        halves = (self.m(self.cv1(features)), self.cv2(features))
        return self.cv3(torch.cat(halves, dim=1))


class SPPF(nn.Module):
    """Spatial pyramid pooling: max-pooling applied three times sees 5, 9 and 13 cells; only the channels change."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        half = in_channels // 2
        self.cv1 = Conv(in_channels, half)
        self.cv2 = Conv(4 * half, out_channels)
        self.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, features: Tensor) -> Tensor:
        scales = [self.cv1(features)]
        for _ in range(3):
            scales.append(self.m(scales[-1]))
        return self.cv2(torch.cat(scales, dim=1))


class Concat(nn.Module):
    """Concatenate feature maps of one size along the channels."""

    def forward(self, *features: Tensor) -> Tensor:
        return torch.cat(features, dim=1)
