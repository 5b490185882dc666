"""A network as the public YOLOv5 pickles it: modules under the names of its classes, with the attributes that these have.

A pickle holds names of classes, not the classes, so it is written without the public code. The classes here are empty
and are never run; what the names stand for is decided by who reads the file.
"""

import copy
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolo.architecture import ANCHORS_PER_LEVEL, VARIANTS, Block, LayerSpec
from yolo.model.network import YOLOv5

PUBLIC_CLASSES = {
    "models.common": ("Bottleneck", "C3", "Concat", "Conv", "SPPF"),
    "models.yolo": ("DetectionModel", "Detect"),
}
"""By module. Except for the network itself, ours have the same names, and the same names for what is in them."""
CLASSES: dict[str, Any] = {
    name: type(name, (nn.Module,), {"__module__": module})
    for module, names in PUBLIC_CLASSES.items()
    for name in names
}


def save_public(model: YOLOv5, class_names: tuple[str, ...], image_size: int, path: Path) -> None:
    """Write a checkpoint as at the end of the public training: `model`, and no state to resume from."""
    network = _network(model)
    network.names = dict(enumerate(class_names))
    network.image_size = image_size  # for `yolo import`; the public code passes it over
    absent = ("best_fitness", "ema", "updates", "optimizer", "opt", "git", "date")
    held = {"epoch": -1, "model": network, **dict.fromkeys(absent)}
    with _importable():
        torch.save(held, path)


def _network(model: YOLOv5) -> Any:
    rows = VARIANTS[model.variant].family.rows
    layers = []
    for index, (row, own) in enumerate(zip(rows, model.model, strict=True)):
        layer = _public(own)
        layer.i, layer.f = index, _from(row)
        layer.type = f"{type(layer).__module__}.{type(layer).__name__}"
        layer.np = sum(parameter.numel() for parameter in own.parameters())
        layers.append(layer)
    strides = torch.tensor([float(stride) for stride in model.stride])
    layers[-1].__dict__ |= _detect_attributes(model) | {"stride": strides}
    network = CLASSES["DetectionModel"]()
    network.model = nn.Sequential(*layers)
    network.save = sorted({s for row in rows for s in row.sources if s != -1})
    network.nc, network.yaml = model.classes, _yaml(model)
    network.stride, network.inplace = strides, True
    return network


def _public(own: nn.Module) -> Any:
    """The same module, with the same tensors, as the public class of this name; torch's own layers as they are."""
    kind = type(own).__name__
    module: Any = CLASSES[kind]() if kind in CLASSES else copy.copy(own)
    module._modules = {name: _public(child) for name, child in own.named_children()}
    module._parameters, module._buffers = own._parameters, own._buffers
    module.training = own.training
    if kind == Block.CONCAT:
        module.d = 1
    elif kind == "Bottleneck":
        module.add = own.has_shortcut
    return module


def _detect_attributes(model: YOLOv5) -> dict[str, Any]:
    levels = len(model.stride)
    return {
        **{"nc": model.classes, "no": model.classes + 5, "nl": levels, "na": ANCHORS_PER_LEVEL},
        "grid": [torch.empty(0)] * levels,
        "anchor_grid": [torch.empty(0)] * levels,
        "inplace": True,
    }


def _yaml(model: YOLOv5) -> dict[str, Any]:
    """The network as the public code's own file describes it, from which its training builds one."""
    scale = VARIANTS[model.variant]
    rows = [[_from(row), row.repeats, *_kind_and_arguments(row)] for row in scale.family.rows]
    backbone = next(i for i, row in enumerate(scale.family.rows) if row.block is Block.SPPF) + 1
    return {
        "nc": model.classes,
        "depth_multiple": scale.depth,
        "width_multiple": scale.width,
        "anchors": [level.flatten().tolist() for level in model.anchors],
        "backbone": rows[:backbone],
        "head": rows[backbone:],
        "ch": 3,
    }


def _from(row: LayerSpec) -> int | list[int]:
    return row.sources[0] if row.sources == (-1,) else list(row.sources)


def _kind_and_arguments(row: LayerSpec) -> tuple[str, list[Any]]:
    match row.block:
        case Block.CONV:
            # An even kernel needs its padding; for odd ones it is half of the kernel.
            padding = [] if row.kernel % 2 else [(row.kernel - 1) // 2]
            return row.block.value, [row.channels, row.kernel, row.stride, *padding]
        case Block.C3:
            return row.block.value, [row.channels] if row.has_shortcut else [row.channels, False]
        case Block.SPPF:
            return row.block.value, [row.channels, row.kernel]
        case Block.UPSAMPLE:
            return "nn.Upsample", [None, 2, "nearest"]
        case Block.CONCAT:
            return row.block.value, [1]
        case _:
            return row.block.value, ["nc", "anchors"]


@contextmanager
def _importable() -> Iterator[None]:
    """Let pickle find the classes under their names: it looks each up before it writes the name."""
    modules = {name: types.ModuleType(name) for name in ("models", *PUBLIC_CLASSES)}
    for module, names in PUBLIC_CLASSES.items():
        vars(modules[module]).update({name: CLASSES[name] for name in names})
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        sys.modules.update(before)
