"""Import checkpoints of the public YOLOv5: a pickled network, or a state dict with its names."""

import json
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import torch
from torch import nn

from yolo.architecture import ANCHORS_PER_LEVEL, VARIANTS, family, layers
from yolo.errors import WeightsError
from yolo.model.io.safe_pickle import PickledTensor, Stub, open_pickled
from yolo.model.io.weights import (
    MAX_IMAGE_SIZE,
    listed,
    misfits,
    require_finite,
    save_weights,
    shapes_of,
)
from yolo.model.network import YOLOv5
from yolo.recipe.plain_text import is_plain

CONTAINERS = {"ModuleList", "Sequential"}
"""Lists of layers; ours may be of another kind."""
COMPUTED_FROM = {
    "Conv2d": ("stride", "padding", "dilation", "groups"),
    "BatchNorm2d": ("eps",),
    "MaxPool2d": ("kernel_size", "stride", "padding"),
    "Upsample": ("scale_factor", "mode"),
    "Bottleneck": ("add",),
}
"""Attributes that a layer's output depends on, besides its tensors."""
OWN_NAMES = {"add": "has_shortcut"}
"""Attributes that have another name here."""
MAX_MODULES = 5000
"""In a network; x6 has 700. A file may nest modules in a cycle."""

Modules = Mapping[str, Stub]


def read_published(path: Path) -> tuple[YOLOv5, dict[str, str]]:
    """The network of a checkpoint (*.pt), its weights in fp32, and class_names and image_size for `save_weights`.

    Takes `ema`, or `model` if there is none: a pickled module, or a state dict as `yolo export --format ultralytics`
    writes it. WeightsError if the file is damaged, names anything that no checkpoint consists of, or holds another
    network than YOLOv5 n to x6 of release 6 or later.
    """
    with open_pickled(path) as file:
        content = file.content
        source = content.get("ema") or content.get("model") if isinstance(content, dict) else None
        modules: Modules = {}
        attributes: Any = content
        if isinstance(source, Stub):
            modules = _modules(path, source)
            state = _state(path, modules)
            attributes = source.state
        elif isinstance(source, dict):
            state = {str(name): tensor for name, tensor in source.items()}
        else:
            raise WeightsError(
                f"{path}: a {type(content).__name__} without a network as `ema` or `model`; expected a checkpoint as the"
                " public YOLOv5 saves it in training"
            )
        model = _network(path, state)
        _check_computation(path, model, modules)
        with torch.no_grad():
            for name, own in model.state_dict().items():
                tensor = file.tensor(state[name])
                # fp16 becomes fp32, which holds each of its numbers exactly.
                if torch.promote_types(tensor.dtype, own.dtype) != own.dtype:
                    raise WeightsError(
                        f"{path}: {name} is {tensor.dtype}, and {own.dtype} cannot hold all its numbers; expected fp16,"
                        " bf16 or fp32"
                    )
                require_finite(path, name, tensor)
                own.copy_(tensor)
    names = _class_names(path, attributes.get("names"), model.classes)
    size = attributes.get("image_size")
    if type(size) is not int or not 1 <= size <= MAX_IMAGE_SIZE:
        size = family(model.variant).image_size
    return model, {"class_names": json.dumps(names), "image_size": str(size)}


def import_checkpoint(path: Path, out: Path) -> str:
    """Write a checkpoint's network with `save_weights`, atomically, and return one line about it.

    Folders of `out` are created. WeightsError as for `read_published`, and if `out` cannot be written.
    """
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out}: expected the name of a .safetensors file to write")
    model, metadata = read_published(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, model, metadata)
    return (
        f"{out}: yolov5{model.variant}, {model.classes} classes, {metadata['image_size']} pixels,"
        f" {len(model.state_dict())} tensors of {path}"
    )


def _modules(path: Path, root: Stub) -> Modules:
    """All modules of a pickled network by their path, `model.2.cv1`; the root's path is empty."""
    found: dict[str, Stub] = {}
    pending: list[tuple[str, Any]] = [("", root)]
    while pending:
        name, module = pending.pop()
        children = module.attribute("_modules") if isinstance(module, Stub) else None
        if not isinstance(children, dict) or len(found) == MAX_MODULES:
            raise WeightsError(
                f"{path}: {name or 'its network'} is no module of torch with fewer than {MAX_MODULES} in it; expected a"
                " checkpoint of the public YOLOv5"
            )
        found[name] = module
        pending += [
            (_join(name, child), value) for child, value in children.items() if value is not None
        ]
    return found


def _state(path: Path, modules: Modules) -> dict[str, Any]:
    """The network's `state_dict`: all parameters, and the buffers that are to be saved."""
    state: dict[str, Any] = {}
    for name, module in modules.items():
        unsaved = module.attribute("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            tensors = module.attribute(kind)
            if not isinstance(tensors, dict):
                raise WeightsError(f"{path}: {name}: a module without {kind}; copy the file again")
            state |= {
                _join(name, key): tensor
                for key, tensor in tensors.items()
                if tensor is not None and not (isinstance(unsaved, set) and key in unsaved)
            }
    return state


def _join(name: str, child: str) -> str:
    return f"{name}.{child}".lstrip(".")


def _network(path: Path, state: Mapping[str, Any]) -> YOLOv5:
    """A network, still with random weights, that the tensors fit. WeightsError if there is none."""
    if "model.0.conv.weight" in state and "model.0.bn.weight" not in state:
        raise WeightsError(
            f"{path}: BatchNorm is fused into its convolutions, as for deployment, and cannot be restored; give the"
            " checkpoint that training wrote"
        )
    shapes = {
        name: tensor.size for name, tensor in state.items() if isinstance(tensor, PickledTensor)
    }
    first = shapes.get("model.0.conv.weight", (0,))
    for variant in VARIANTS:
        table = layers(variant)
        heads = shapes.get(f"model.{len(table) - 1}.m.0.bias")
        if first[:1] != (table[0].out_channels,) or not heads or len(shapes) < len(state):
            continue
        classes = max(1, heads[0] // ANCHORS_PER_LEVEL - 5)
        if unfit := misfits(shapes, shapes_of(variant, classes)):
            raise WeightsError(
                f"{path}: looks like yolov5{variant} of {classes} classes, but is not: {listed(unfit)}; only the variants"
                f" {', '.join(VARIANTS)} of release 6 or later can be read"
            )
        return YOLOv5(variant, classes)
    raise WeightsError(
        f"{path}: {len(state)} tensors that are no YOLOv5 detector of the variants {', '.join(VARIANTS)}, release 6 or"
        " later; other networks cannot be read"
    )


def _check_computation(path: Path, model: YOLOv5, modules: Modules) -> None:
    """WeightsError if the pickled modules compute anything else from the same tensors."""
    for name, own in model.named_modules() if modules else ():
        kind = type(own).__name__
        if not name or kind in CONTAINERS:
            continue
        published = modules.get(name)
        if published is None or not _is_same_kind(own, published):
            found = "missing" if published is None else f"a {published.class_name}"
            raise WeightsError(
                f"{path}: {name} is {found} there, and a {kind} in YOLOv5; it computes something else, and cannot be read"
            )
        for key in COMPUTED_FROM.get(kind, ()):
            expected, value = getattr(own, OWN_NAMES.get(key, key)), published.attribute(key)
            if _pair(value) != _pair(expected):
                raise WeightsError(
                    f"{path}: {name}: {key} is {shown(value)}, and {expected!r} in YOLOv5; it computes something else, and"
                    " cannot be read"
                )


def _is_same_kind(own: nn.Module, published: Stub) -> bool:
    """Whether the class names are equal, and for torch's own layers the modules too."""
    module = type(own).__module__
    return type(own).__name__ == published.class_name and (
        not module.startswith("torch.") or module == type(published).__module__
    )


def _pair(value: object) -> object:
    """A number as the two equal sides that it stands for."""
    return (value, value) if type(value) in (int, float) else value


def _class_names(path: Path, names: Any, classes: int) -> list[str]:
    """In the network's order, from a list or a dict by number."""
    if isinstance(names, dict):
        names = [names.get(number) for number in range(len(names))]
    is_list = isinstance(names, list | tuple)
    if not is_list or not all(isinstance(name, str) and is_plain(name) for name in names):
        raise WeightsError(f"{path}: its `names` are {shown(names)}; expected one text per class")
    if len(names) != classes:
        raise WeightsError(f"{path}: names {len(names)} classes for a network of {classes}")
    return list(names)
