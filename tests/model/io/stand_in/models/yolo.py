"""Stand-ins for the public YOLOv5's networks, under their published names: see common.py."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from models.common import C3, SPPF, Concat, Conv

# (layers read, kind, channels at width 1, repeats at depth 1 or kernel and stride)
BACKBONE = [
    *((-1, "Conv", 64, (6, 2)), (-1, "Conv", 128, (3, 2)), (-1, "C3", 128, 3)),
    *((-1, "Conv", 256, (3, 2)), (-1, "C3", 256, 6), (-1, "Conv", 512, (3, 2)), (-1, "C3", 512, 9)),
]
P5 = [
    *(*BACKBONE, (-1, "Conv", 1024, (3, 2)), (-1, "C3", 1024, 3), (-1, "SPPF", 1024, 0)),
    *((-1, "Conv", 512, (1, 1)), (-1, "Up", 0, 0), ([-1, 6], "Concat", 0, 0), (-1, "C3-", 512, 3)),
    *((-1, "Conv", 256, (1, 1)), (-1, "Up", 0, 0), ([-1, 4], "Concat", 0, 0), (-1, "C3-", 256, 3)),
    *((-1, "Conv", 256, (3, 2)), ([-1, 14], "Concat", 0, 0), (-1, "C3-", 512, 3)),
    *((-1, "Conv", 512, (3, 2)), ([-1, 10], "Concat", 0, 0), (-1, "C3-", 1024, 3)),
    ([17, 20, 23], "Detect", 0, 0),
]
P6 = [
    *(*BACKBONE, (-1, "Conv", 768, (3, 2)), (-1, "C3", 768, 3), (-1, "Conv", 1024, (3, 2))),
    *((-1, "C3", 1024, 3), (-1, "SPPF", 1024, 0)),
    *((-1, "Conv", 768, (1, 1)), (-1, "Up", 0, 0), ([-1, 8], "Concat", 0, 0), (-1, "C3-", 768, 3)),
    *((-1, "Conv", 512, (1, 1)), (-1, "Up", 0, 0), ([-1, 6], "Concat", 0, 0), (-1, "C3-", 512, 3)),
    *((-1, "Conv", 256, (1, 1)), (-1, "Up", 0, 0), ([-1, 4], "Concat", 0, 0), (-1, "C3-", 256, 3)),
    *((-1, "Conv", 256, (3, 2)), ([-1, 20], "Concat", 0, 0), (-1, "C3-", 512, 3)),
    *((-1, "Conv", 512, (3, 2)), ([-1, 16], "Concat", 0, 0), (-1, "C3-", 768, 3)),
    *((-1, "Conv", 768, (3, 2)), ([-1, 12], "Concat", 0, 0), (-1, "C3-", 1024, 3)),
    ([23, 26, 29, 32], "Detect", 0, 0),
]
SCALES = {"n": (0.33, 0.25), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1, 1), "x": (1.33, 1.25)}
PIXELS = {
    3: "10,13,16,30,33,23 30,61,62,45,59,119 116,90,156,198,373,326",
    4: "19,27,44,40,38,94 96,68,86,152,180,137 140,301,303,264,238,542 436,615,739,380,925,792",
}


class Detect(nn.Module):
    def __init__(self, nc: int, channels: list[int]):
        super().__init__()
        self.nc, self.no, self.nl, self.na = nc, nc + 5, len(channels), 3
        self.stride = torch.tensor([8.0 * 2**i for i in range(self.nl)])
        pixels = [[float(x) for x in level.split(",")] for level in PIXELS[self.nl].split()]
        grid = torch.tensor(pixels).view(self.nl, 3, 2) / self.stride.view(-1, 1, 1)
        self.register_buffer("anchors", grid)
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * self.no, 1) for c in channels)

    def forward(self, x: list[Tensor]) -> Tensor:
        found = []
        for i, feature in enumerate(x):
            y = self.m[i](feature).sigmoid()
            images, _, rows, columns = y.shape
            y = y.reshape(images, 3, self.no, rows, columns)
            across = torch.arange(columns).view(1, 1, 1, columns)
            down = torch.arange(rows).view(1, 1, rows, 1)
            anchor = self.anchors[i] * self.stride[i]
            parts = [
                (y[:, :, 0] * 2 - 0.5 + across) * self.stride[i],
                (y[:, :, 1] * 2 - 0.5 + down) * self.stride[i],
                (y[:, :, 2] * 2) ** 2 * anchor[:, 0].view(1, 3, 1, 1),
                (y[:, :, 3] * 2) ** 2 * anchor[:, 1].view(1, 3, 1, 1),
                *y[:, :, 4:].unbind(2),
            ]
            found.append(torch.stack(parts, -1).reshape(images, -1, self.no))
        return torch.cat(found, 1)


class DetectionModel(nn.Module):
    def __init__(self, variant: str, nc: int, names: Any, act: type = nn.SiLU):
        super().__init__()
        rows = P6 if variant.endswith("6") else P5
        depth, width = SCALES[variant[0]]
        self.yaml = {"nc": nc, "depth_multiple": depth, "width_multiple": width}
        self.names = names
        made: list[nn.Module] = []
        channels: list[int] = []
        for reads, kind, wide, how in rows:
            reads = reads if isinstance(reads, list) else [reads]
            before = [channels[r] for r in reads] if channels else [3]
            after = math.ceil(wide * width / 8) * 8 or sum(before)
            repeats = max(round(how * depth), 1) if kind in ("C3", "C3-") else 0
            match kind:
                case "Conv":
                    layer: nn.Module = Conv(before[0], after, *how, act=act)
                case "C3" | "C3-":
                    layer = C3(before[0], after, repeats, kind == "C3")
                case "SPPF":
                    layer = SPPF(before[0], after)
                case "Up":
                    layer = nn.Upsample(None, 2, "nearest")
                case "Concat":
                    layer = Concat()
                case _:
                    layer = Detect(nc, before)
            layer.f, layer.i = reads, len(made)
            made.append(layer)
            channels.append(after)
        self.model = nn.Sequential(*made)
        self.stride = made[-1].stride

    def fuse(self) -> "DetectionModel":
        for module in self.modules():
            if isinstance(module, Conv) and hasattr(module, "bn"):
                module.conv = fuse_conv_bn_eval(module.conv.eval(), module.bn.eval())
                del module.bn
                module.forward = module.forward_fused
        return self

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Any] = []
        for layer in self.model:
            reads = layer.f if isinstance(layer.f, list) else [layer.f]
            inputs = [x if r == -1 else kept[r] for r in reads]
            x = layer(inputs if isinstance(layer, Concat | Detect) else inputs[0])
            kept.append(x)
        return x


def network_of(yaml: dict[str, Any]) -> DetectionModel:
    """A network that its own description is made into; it is of the rows above, whatever the width and depth."""
    scale = yaml["depth_multiple"], yaml["width_multiple"]
    letter = next(letter for letter in SCALES if SCALES[letter] == scale)
    rows = yaml["backbone"] + yaml["head"]
    return DetectionModel(letter + ("6" if len(rows) == len(P6) else ""), yaml["nc"], None)


Model = DetectionModel
