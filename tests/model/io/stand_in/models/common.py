"""Stand-ins for the public YOLOv5's blocks, under their published names: from its layer table, not from its code.

They share nothing with yolo.model, so that what they compute is an independent reference.
"""

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    def __init__(self, before: int, after: int, side: int = 1, step: int = 1, act: type = nn.SiLU):
        super().__init__()
        pad = 2 if side == 6 else side // 2
        self.conv = nn.Conv2d(before, after, side, step, pad, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3, momentum=0.03)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fused(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Bottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool):
        super().__init__()
        self.cv1 = Conv(width, width)
        self.cv2 = Conv(width, width, 3)
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return y.add(x) if self.add else y


class C3(nn.Module):
    def __init__(self, before: int, after: int, repeats: int, shortcut: bool):
        super().__init__()
        inner = after // 2
        self.cv1 = Conv(before, inner)
        self.cv2 = Conv(before, inner)
        self.cv3 = Conv(inner * 2, after)
        self.m = nn.Sequential(*[Bottleneck(inner, shortcut) for _ in range(repeats)])

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class SPPF(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.cv1 = Conv(before, before // 2)
        self.cv2 = Conv(before * 2, after)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.cv1(x)
        b = self.m(a)
        c = self.m(b)
        return self.cv2(torch.cat([a, b, c, self.m(c)], 1))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d = 1

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, self.d)
