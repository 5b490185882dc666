"""Checkpoints of the public YOLOv5: a pickled network, or a state dict with its names, turned into ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import torch
from torch import nn

from yolo.architecture import ANCHORS_PER_LEVEL, VARIANTS, family, layers
from yolo.errors import WeightsError
from yolo.model.io.safe_pickle import PickledFile, PickledTensor, Stub, open_pickled
from yolo.model.io.weights import LARGEST_SIDE, listed, misfits, save_weights, shapes_of
from yolo.model.layers import Bottleneck
from yolo.model.network import YOLOv5
from yolo.recipe.plain_text import is_plain

CONTAINERS = {"ModuleList", "Sequential"}
"""Lists of layers: ours need not be of the same kind."""
COMPUTES = {
    "Conv2d": ("stride", "padding", "dilation", "groups"),
    "BatchNorm2d": ("eps",),
    "MaxPool2d": ("kernel_size", "stride", "padding"),
    "Upsample": ("scale_factor", "mode"),
}
"""Attributes on which the output of a layer depends beside its tensors."""
MOST_MODULES = 5000
"""Of a network; x6 has 700. A file may nest modules within themselves."""

Modules = Mapping[str, Stub]


def read_published(path: Path) -> tuple[YOLOv5, dict[str, str]]:
    """The network of a checkpoint (*.pt), its weights in fp32, and class_names and image_size for `save_weights`.

    Of a dict with `ema` and `model` the former is taken where it is there. They are pickled modules, or state dicts as
    `yolo export --format ultralytics` writes them. WeightsError where the file is damaged, names what no checkpoint is
    made of, or holds another network than YOLOv5 n to x6 of release 6 or later.
    """
    with open_pickled(path) as file:
        content = file.content
        source = content.get("ema") or content.get("model") if isinstance(content, dict) else None
        modules: Modules = {}
        facts: Any = content
        if isinstance(source, Stub):
            modules = _modules(path, source)
            state = _state(path, modules)
            facts = source.state
        elif isinstance(source, dict):
            state = {str(name): tensor for name, tensor in source.items()}
        else:
            raise WeightsError(
                f"{path}: a {type(content).__name__} without a network as `ema` or `model`; expected a checkpoint as the"
                " public YOLOv5 saves it in training"
            )
        model = _network(path, state)
        _check_computation(path, model, modules)
        _copy(path, file, state, model)
    names = _class_names(path, facts.get("names"), model.classes)
    size = facts.get("image_size")
    if type(size) is not int or not 1 <= size <= LARGEST_SIDE:
        size = family(model.variant).image_size
    return model, {"class_names": json.dumps(names), "image_size": str(size)}


def import_checkpoint(path: Path, out: Path) -> str:
    """Write a checkpoint's network with `save_weights`, whole or not at all; a line about it comes back.

    Folders of `out` are made. WeightsError as of `read_published`, and where `out` cannot be written.
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
    """All modules of a pickled network by their path, `model.2.cv1`; the root's is empty."""
    found: dict[str, Stub] = {}
    left: list[tuple[str, Any]] = [("", root)]
    while left:
        name, module = left.pop()
        children = module.attribute("_modules") if isinstance(module, Stub) else None
        if not isinstance(children, dict) or len(found) == MOST_MODULES:
            raise WeightsError(
                f"{path}: {name or 'its network'} is no module of torch with fewer than {MOST_MODULES} in it; expected a"
                " checkpoint of the public YOLOv5"
            )
        found[name] = module
        left += [
            (f"{name}.{child}".lstrip("."), value)
            for child, value in children.items()
            if value is not None
        ]
    return found


def _state(path: Path, modules: Modules) -> dict[str, Any]:
    """As the network's `state_dict` would give it, but for buffers that are not to be saved."""
    state: dict[str, Any] = {}
    for name, module in modules.items():
        passing = module.attribute("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers"):
            tensors = module.attribute(kind)
            if not isinstance(tensors, dict):
                raise WeightsError(f"{path}: {name}: a module without {kind}; is it whole?")
            state |= {
                f"{name}.{key}".lstrip("."): tensor
                for key, tensor in tensors.items()
                if tensor is not None and not (isinstance(passing, set) and key in passing)
            }
    return state


def _network(path: Path, state: Mapping[str, Any]) -> YOLOv5:
    """A network, still with random weights, into which the tensors fit. WeightsError where there is none."""
    if "model.0.conv.weight" in state and "model.0.bn.weight" not in state:
        raise WeightsError(
            f"{path}: BatchNorm is fused into its convolutions, as for deployment, and cannot be had back; give the"
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
    """WeightsError where the pickled modules compute anything else from the same tensors."""
    if not modules:
        return
    for name, own in model.named_modules():
        kind = type(own).__name__
        if not name or kind in CONTAINERS:
            continue
        published = modules.get(name)
        if published is None or not _is_like(own, published):
            found = "missing" if published is None else f"a {published.class_name}"
            raise WeightsError(
                f"{path}: {name} is {found} there, and a {kind} in YOLOv5; it computes something else, and cannot be read"
            )
        _check_attributes(path, name, own, published)


def _is_like(own: nn.Module, published: Stub) -> bool:
    """Of the same class, by its name, and for torch's own layers also by its module."""
    own_class, published_class = type(own), type(published)
    is_of_torch = own_class.__module__.startswith("torch.")
    has_same_module = own_class.__module__ == published_class.__module__
    return own_class.__name__ == published.class_name and (has_same_module or not is_of_torch)


def _check_attributes(path: Path, name: str, own: nn.Module, published: Stub) -> None:
    kind = type(own).__name__
    attributes = {
        key: (getattr(own, key), published.attribute(key)) for key in COMPUTES.get(kind, ())
    }
    if isinstance(own, Bottleneck):
        attributes["add"] = (own.has_shortcut, published.attribute("add"))
    for key, (expected, found) in attributes.items():
        if _pair(found) != _pair(expected):
            raise WeightsError(
                f"{path}: {name}: {key} is {shown(found)}, and {expected!r} in YOLOv5; it computes something else, and"
                " cannot be read"
            )


def _pair(value: object) -> object:
    """Sizes of a square may be given once."""
    return (value, value) if type(value) in (int, float) else value


def _copy(path: Path, file: PickledFile, state: Mapping[str, PickledTensor], model: YOLOv5) -> None:
    """fp16 becomes fp32, which holds each of its numbers exactly."""
    with torch.no_grad():
        for name, own in model.state_dict().items():
            tensor = file.tensor(state[name])
            if torch.promote_types(tensor.dtype, own.dtype) != own.dtype:
                raise WeightsError(
                    f"{path}: {name} is {tensor.dtype}, of which {own.dtype} cannot hold every number; expected fp16,"
                    " bf16 or fp32"
                )
            if not bool(tensor.isfinite().all()):
                raise WeightsError(
                    f"{path}: {name} holds what is no number; the file is damaged, or of a run that diverged"
                )
            own.copy_(tensor)


def _class_names(path: Path, names: Any, classes: int) -> list[str]:
    """In the network's order, from a list or a dict by number."""
    if isinstance(names, dict):
        names = [names.get(number) for number in range(len(names))]
    is_list = isinstance(names, list | tuple)
    if not is_list or not all(isinstance(name, str) and is_plain(name) for name in names):
        raise WeightsError(
            f"{path}: its `names` are {shown(names)}; expected a text for each class"
        )
    if len(names) != classes:
        raise WeightsError(f"{path}: names {len(names)} classes for a network of {classes}")
    return list(names)
