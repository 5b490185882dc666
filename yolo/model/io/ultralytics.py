"""Read checkpoints of the public YOLOv5: a pickled network, or a state dict with its names."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import torch
from torch import Tensor, nn

from yolo.architecture import ANCHORS_PER_LEVEL, VARIANTS, family, layers, tensor_shapes
from yolo.errors import WeightsError
from yolo.model.io.fit import Shapes, listed, misfits
from yolo.model.io.other_models import other_model
from yolo.model.io.safe_pickle import PickledFile, PickledTensor, Stub, open_pickled
from yolo.model.network import YOLOv5
from yolo.recipe.plain_text import is_plain

MAX_IMAGE_SIZE = 4096
"""Pixels; a recipe's limit too."""
HELD_UNDER = ("ema", "model", "state_dict")
"""Keys of a checkpoint under which a network or a state dict may be; the first that is there is read."""
FIRST = re.compile(r"((?:[^\W\d]\w*\.)*)0\.conv\.weight")
"""Name of the first layer's weight; what is before the 0 differs between wrappers such as DDP."""
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


@dataclass(frozen=True, slots=True)
class _Held:
    """A network as a file holds it."""

    state: Mapping[str, PickledTensor]
    """By the names of our state dict, as far as they are a YOLOv5's."""
    modules: Modules
    """By the same names; empty for a state dict, which says nothing of what is computed from it."""
    attributes: Mapping[Any, Any]
    """What may have `names` and `image_size`."""


def read_published(
    path: Path, class_names: Sequence[str] | None = None
) -> tuple[YOLOv5, dict[str, str]]:
    """The network of a checkpoint (*.pt), its weights in fp32, and class_names and image_size for `save_weights`.

    A pickled network or a state dict, alone or as `ema`, `model` or `state_dict` of a dict. `class_names` are needed if
    the file has no `names`, and win over these. WeightsError if the file is damaged, names anything that no checkpoint
    consists of, or holds another network than YOLOv5 n to x6 of release 6 or later.
    """
    with open_pickled(path) as file:
        held = _held(path, file.content)
        shapes = {name: file.shape(name, tensor) for name, tensor in held.state.items()}
        model = _network(path, shapes)
        _check_computation(path, model, held.modules)
        names = held.attributes.get("names") if class_names is None else list(class_names)
        if names is None:
            raise WeightsError(
                f"{path}: weights of yolov5{model.variant} with {model.classes} classes, without their names (`names`);"
                f" give them in order: yolo import {path} {path.with_suffix('.safetensors')} --classes A,B,...,"
                " or with a file of one name per line, or a data.yaml"
            )
        names = _class_names(path, names, model.classes)
        size = _image_size(model, held.attributes, file.content)
        _copy(path, file, held.state, model)
    return model, {"class_names": json.dumps(names), "image_size": str(size)}


def require_finite(path: Path, name: str, tensor: Tensor) -> None:
    """WeightsError if a tensor holds NaN or infinity."""
    if not bool(tensor.float().isfinite().all()):
        raise WeightsError(
            f"{path}: {name} holds non-finite numbers; the file is damaged, or its run diverged"
        )


def _held(path: Path, content: Any) -> _Held:
    """Find the network or state dict in a checkpoint, and name its tensors as ours."""
    for source in _candidates(content):
        modules = _modules(path, source) if isinstance(source, Stub) else {}
        found = _state(path, modules) if modules else source
        state = {str(name): t for name, t in found.items() if isinstance(t, PickledTensor)}
        if not state:
            continue
        prefix = _prefix(state)
        state = {_renamed(name, prefix): tensor for name, tensor in state.items()}
        if not modules:
            return _Held(state, {}, source if "names" in source else content)
        owner = modules.get(prefix.removesuffix("model.").removesuffix("."), source)
        modules = {_renamed(name, prefix): module for name, module in modules.items()}
        attributes = owner.state if isinstance(owner.state, dict) else {}
        return _Held(state, modules, attributes)
    kind = content.class_name if isinstance(content, Stub) else type(content).__name__
    raise WeightsError(
        f"{path}: a {kind} without a network or state dict, itself or as {', '.join(HELD_UNDER)}; expected a checkpoint as"
        " the public YOLOv5 saves it in training, or torch.save(model.state_dict())"
    )


def _candidates(content: Any) -> list[Any]:
    """What may be a network or a state dict, in the order to look at."""
    if isinstance(content, Stub):
        return [content]
    if not isinstance(content, dict):
        return []
    inner = [content.get(key) for key in HELD_UNDER]
    return [source for source in (*inner, content) if source and isinstance(source, Stub | dict)]


def _prefix(names: Mapping[str, Any]) -> str:
    """What is before the number of a layer: `model.`, or with wrappers `module.model.`, or nothing."""
    found = next(filter(None, map(FIRST.fullmatch, names)), None)
    return found[1] if found else "model."


def _renamed(name: str, prefix: str) -> str:
    return f"model.{name.removeprefix(prefix)}" if name.startswith(prefix) else name


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


def _network(path: Path, shapes: Shapes) -> YOLOv5:
    """A network, still with random weights, that the tensors fit. WeightsError if there is none."""
    if other := other_model(shapes):
        raise WeightsError(f"{path}: {other}")
    _refuse_fused(path, shapes)
    first = shapes.get("model.0.conv.weight", (0,))
    for variant in VARIANTS:
        table = layers(variant)
        heads = shapes.get(f"model.{len(table) - 1}.m.0.bias")
        if first[:1] != (table[0].out_channels,) or not heads:
            continue
        classes = max(1, heads[0] // ANCHORS_PER_LEVEL - 5)
        if unfit := misfits(shapes, tensor_shapes(variant, classes)):
            raise WeightsError(
                f"{path}: looks like yolov5{variant} of {classes} classes, but is not: {listed(unfit)}; only the variants"
                f" {', '.join(VARIANTS)} of release 6 or later can be read"
            )
        return YOLOv5(variant, classes)
    raise WeightsError(
        f"{path}: {len(shapes)} tensors that are no YOLOv5 detector of the variants {', '.join(VARIANTS)}, release 6 or"
        " later; other networks cannot be read"
    )


def _refuse_fused(path: Path, shapes: Shapes) -> None:
    suffix = ".conv.weight"
    convolutions = [name.removesuffix(suffix) for name in shapes if name.endswith(suffix)]
    fused = [
        name
        for name in convolutions
        if f"{name}.bn.weight" not in shapes and f"{name}.conv.bias" in shapes
    ]
    if fused:
        raise WeightsError(
            f"{path}: BatchNorm is fused into {len(fused)} of its {len(convolutions)} convolutions, as for deployment, and"
            " cannot be restored; give the checkpoint that training wrote"
        )


def _copy(path: Path, file: PickledFile, state: Mapping[str, PickledTensor], model: YOLOv5) -> None:
    """Read the tensors into the network."""
    with torch.no_grad():
        for name, own in model.state_dict().items():
            tensor = file.tensor(name, state[name])
            # fp16 becomes fp32, which holds each of its numbers exactly.
            if torch.promote_types(tensor.dtype, own.dtype) != own.dtype:
                raise WeightsError(
                    f"{path}: {name} is {tensor.dtype}, and {own.dtype} cannot hold all its numbers; expected fp16, bf16"
                    " or fp32"
                )
            require_finite(path, name, tensor)
            own.copy_(tensor)


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


def _image_size(model: YOLOv5, attributes: Mapping[Any, Any], content: Any) -> int:
    """The side in pixels that it was trained at: as our export or the public training notes it, else the family's."""
    options = content.get("opt") if isinstance(content, dict) else None
    options = options.state if isinstance(options, Stub) else options
    noted = options.get("imgsz") if isinstance(options, dict) else None
    for size in (attributes.get("image_size"), noted):
        if type(size) is int and 1 <= size <= MAX_IMAGE_SIZE:
            return math.ceil(size / model.stride[-1]) * model.stride[-1]
    return family(model.variant).image_size


def _class_names(path: Path, names: Any, classes: int) -> list[str]:
    """In the network's order, from a list or a dict by number. A data.yaml may name classes 0, 1 or yes, no."""
    if isinstance(names, dict):
        names = [names.get(number) for number in range(len(names))]
    if isinstance(names, list | tuple):
        names = [str(name) if isinstance(name, int | float) else name for name in names]
    is_list = isinstance(names, list)
    if not is_list or not all(isinstance(name, str) and is_plain(name) for name in names):
        raise WeightsError(f"{path}: its `names` are {shown(names)}; expected one text per class")
    if len(names) != classes:
        raise WeightsError(f"{path}: names {len(names)} classes for a network of {classes}")
    return names
