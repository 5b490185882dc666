"""Weights as a safetensors file: the public YOLOv5's tensor names, and the metadata to rebuild the network."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from yolo.errors import WeightsError
from yolo.model.network import YOLOv5
from yolo.recipe.plain_text import is_plain

MAX_LISTED = 4
"""Tensors that a message names before it only counts them."""

MAX_IMAGE_SIZE = 4096
"""Pixels; a recipe's limit too."""

Reasons = tuple[tuple[str, str], ...]
"""Names of tensors that do not fit, each with the reason."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Which tensors came from the file."""

    matched: tuple[str, ...]
    skipped: Reasons
    """Tensors of the file or of the network that were not loaded."""

    def summary(self) -> str:
        """One line for the log."""
        skipped = f", {len(self.skipped)} skipped: {listed(self.skipped)}" if self.skipped else ""
        return f"{len(self.matched)} tensors loaded{skipped}"


@dataclass(frozen=True, slots=True)
class Detector:
    """A network with what is needed to use it on images."""

    model: YOLOv5
    class_names: tuple[str, ...]
    image_size: int
    """Side of the square that it was trained on, in pixels."""


def save_weights(path: Path, model: YOLOv5, metadata: Mapping[str, str]) -> None:
    """Write `weights_content` atomically. WeightsError if the file cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(weights_content(model, metadata))


def weights_content(model: YOLOv5, metadata: Mapping[str, str]) -> bytes:
    """The state dict as the content of a safetensors file.

    The file's metadata is `metadata` (by convention class_names as JSON, and image_size) plus the network's variant,
    classes and anchors (JSON, pixels).
    """
    described = {
        **metadata,
        "format": "pt",
        "variant": model.variant,
        "classes": str(model.classes),
        "anchors": json.dumps(model.anchors.tolist()),
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save(tensors, described)  # a file of `save_file` is unreadable to others


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to; renamed to `path` on success, else deleted. WeightsError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(path: Path, model: nn.Module, allow_mismatch: bool) -> LoadedWeights:
    """Copy a file's tensors into the network.

    Without `allow_mismatch`, names and shapes must equal the network's, and its anchors become the file's. With it
    (for another number of classes, say), tensors that fit are loaded, the others stay and are named, and the network
    keeps the anchors chosen for its data. WeightsError if the file is missing or unreadable, does not fit, or has no
    tensor that fits; the network is then unchanged.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.dtype == torch.int64):
            raise WeightsError(f"{path}: {name} is {tensor.dtype}; expected floating-point numbers")
        require_finite(path, name, tensor)
    state = model.state_dict()
    skipped = misfits(_shapes(tensors), _shapes(state))
    if allow_mismatch:
        skipped += tuple(
            (name, "the network keeps its own anchors")
            for name, own in state.items()
            if _is_anchors(name) and name in tensors and tensors[name].shape == own.shape
            if not torch.equal(tensors[name].to(own), own)
        )
    elif skipped:
        raise WeightsError(
            f"{path}: does not fit the network: {listed(skipped)}; use weights of the same variant"
            " and number of classes"
        )
    skipped_names = dict(skipped)
    matched = tuple(name for name in state if name not in skipped_names)
    if all(_is_anchors(name) for name in matched):
        raise WeightsError(
            f"{path}: no tensor fits the network ({listed(skipped)}); use YOLOv5 weights,"
            " preferably of the same variant"
        )
    with torch.no_grad():
        for name in matched:
            state[name].copy_(tensors[name])
    return LoadedWeights(matched, skipped)


def build_from_weights(path: Path) -> tuple[YOLOv5, dict[str, str]]:
    """The network that a file of `save_weights` describes, with its weights, and the file's metadata."""
    with _opened(path) as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    try:
        variant, classes = metadata["variant"], int(metadata["classes"])
        unfit = misfits(shapes, shapes_of(variant, classes))
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: its metadata does not say which network it holds ({error}); use a file written by this program"
        ) from error
    if unfit:
        raise WeightsError(
            f"{path}: its tensors are not those of yolov5{variant} with {classes} classes, which its metadata names:"
            f" {listed(unfit)}"
        )
    model = YOLOv5(variant, classes)
    load_weights(path, model, allow_mismatch=False)
    return model, metadata


def load_detector(path: Path) -> Detector:
    """The network of a file with class_names and image_size in its metadata, as a run writes it; else WeightsError."""
    model, metadata = build_from_weights(path)
    try:
        class_names = tuple(str(name) for name in json.loads(metadata["class_names"]))
        image_size = int(metadata["image_size"])
        if not all(map(is_plain, class_names)) or not 1 <= image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"{shown(class_names)} at {shown(image_size)} pixels")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: its metadata lack class_names or image_size ({error}); use a run's weights/*.safetensors"
        ) from error
    if len(class_names) != model.classes:
        raise WeightsError(
            f"{path}: names {len(class_names)} classes for a network of {model.classes}"
        )
    return Detector(model, class_names, image_size)


def shapes_of(variant: str, classes: int) -> dict[str, Sequence[int]]:
    """The tensor shapes of a network, without building it: a tiny file may claim any number of classes.

    ValueError if there is no such network.
    """
    try:
        with torch.device("meta"):
            return _shapes(YOLOv5(variant, classes).state_dict())
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond 64 bits
        raise ValueError(f"no {variant} network of {shown(classes)} classes exists") from error


def require_finite(path: Path, name: str, tensor: Tensor) -> None:
    """WeightsError if a tensor holds NaN or infinity."""
    if not bool(tensor.float().isfinite().all()):
        raise WeightsError(
            f"{path}: {name} holds non-finite numbers; the file is damaged, or its run diverged"
        )


def misfits(found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]) -> Reasons:
    """Tensors whose shape in a file differs from the network's, or that only one of them has."""
    reasons = []
    for name, shape in expected.items():
        if name not in found:
            reasons.append((name, "not in the file"))
        elif tuple(found[name]) != tuple(shape):
            both = f"{tuple(found[name])} in the file, {tuple(shape)} in the network"
            reasons.append((name, both))
    reasons += [(name, "not in the network") for name in found if name not in expected]
    return tuple(reasons)


def listed(items: Reasons) -> str:
    """The first names with their reasons, and how many more there are."""
    named = ", ".join(f"{name} ({reason})" for name, reason in items[:MAX_LISTED])
    more = len(items) - MAX_LISTED
    return f"{named} and {more} more" if more > 0 else named


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; give the path of a .safetensors file in it")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give the path of a .safetensors file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (OSError, ValueError, KeyError, AttributeError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path}: not a valid safetensors file ({error}); copy it again, or convert it to safetensors"
        ) from error


def _is_anchors(name: str) -> bool:
    """`model.24.anchors`, in the P6 family `model.33.anchors`: chosen for data, not learnt."""
    return name.endswith(".anchors")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    return {name: tensor.shape for name, tensor in tensors.items()}
