"""Weights as a safetensors file: the public YOLOv5's tensor names, and what is needed to build the network again."""

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

NAMED = 4
"""Tensors named in a message before it says how many more there are."""

LARGEST_SIDE = 4096
"""Of the square that a network is used on, in pixels: a recipe's highest."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Which tensors came from the file."""

    matched: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    """Tensors of the file or of the network that were left, each with the reason."""

    def summary(self) -> str:
        """One line for the log."""
        text = f"{len(self.matched)} tensors loaded"
        return f"{text}, {len(self.skipped)} left: {listed(self.skipped)}" if self.skipped else text


def save_weights(path: Path, model: YOLOv5, metadata: Mapping[str, str]) -> None:
    """Write the state dict, whole or not at all: to a temporary name first.

    The file's metadata is `metadata` (class_names as JSON and image_size by convention) with variant, classes and
    anchors (JSON, pixels) of the network. WeightsError where the file cannot be written.
    """
    described = {
        **metadata,
        "format": "pt",
        "variant": model.variant,
        "classes": str(model.classes),
        "anchors": json.dumps(model.anchors.tolist()),
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    with written_whole(path) as temporary:
        temporary.write_bytes(save(tensors, described))  # save_file's are readable to nobody else


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` where all went well, and nothing where not.

    WeightsError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_metadata(path: Path) -> dict[str, str]:
    """What the file says about itself, without its tensors. WeightsError where it is no safetensors file."""
    return _described(path)[0]


def load_weights(path: Path, model: nn.Module, allow_mismatch: bool) -> LoadedWeights:
    """Copy a file's tensors into the network.

    Without `allow_mismatch` names and shapes must be the network's, and its anchors become the file's. With it (another
    number of classes, say) what fits is taken, the rest stays as it is and is named, and the network keeps the anchors
    that were chosen for its data. WeightsError where the file is missing or unreadable, does not fit, or nothing of it
    fits; the network is then unchanged.
    """
    tensors = _tensors(path)
    state = model.state_dict()
    skipped = misfits(_shapes(tensors), _shapes(state))
    if allow_mismatch:
        skipped += _other_anchors(tensors, state)
    if skipped and not allow_mismatch:
        raise WeightsError(
            f"{path}: does not fit the network: {listed(skipped)}; use weights of the same variant"
            " and number of classes"
        )
    left = {name for name, _ in skipped}
    matched = tuple(name for name in state if name not in left)
    if all(_is_anchors(name) for name in matched):
        raise WeightsError(
            f"{path}: no tensor fits the network ({listed(skipped)}); use YOLOv5 weights,"
            " best of the same variant"
        )
    with torch.no_grad():
        for name in matched:
            state[name].copy_(tensors[name])
    return LoadedWeights(matched, skipped)


def build_from_weights(path: Path) -> tuple[YOLOv5, dict[str, str]]:
    """The network that a file of `save_weights` describes, with its weights, and the file's metadata."""
    metadata, shapes = _described(path)
    try:
        variant, classes = metadata["variant"], int(metadata["classes"])
        unfit = misfits(shapes, shapes_of(variant, classes))
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: its metadata does not say which network it holds ({error}); use a file"
            " written by this program"
        ) from error
    if unfit:
        raise WeightsError(
            f"{path}: is no yolov5{variant} of {classes} classes, as it says: {listed(unfit)}"
        )
    model = YOLOv5(variant, classes)
    load_weights(path, model, allow_mismatch=False)
    return model, metadata


def shapes_of(variant: str, classes: int) -> dict[str, Sequence[int]]:
    """The tensors of a network that is not built: a file of a few bytes may say that it has any number of classes.

    ValueError where there is no such network.
    """
    try:
        with torch.device("meta"):
            return _shapes(YOLOv5(variant, classes).state_dict())
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond 64 bits
        raise ValueError(f"{variant} of {shown(classes)} classes cannot be") from error


@dataclass(frozen=True, slots=True)
class Detector:
    """A network with what is needed to use it on images."""

    model: YOLOv5
    class_names: tuple[str, ...]
    image_size: int
    """Side of the square that it was trained on, in pixels."""


def load_detector(path: Path) -> Detector:
    """The network of a file whose metadata name its classes and image size, as a run's do. WeightsError otherwise."""
    model, metadata = build_from_weights(path)
    try:
        class_names = tuple(str(name) for name in json.loads(metadata["class_names"]))
        image_size = int(metadata["image_size"])
        if not all(map(is_plain, class_names)) or not 1 <= image_size <= LARGEST_SIDE:
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


def _described(path: Path) -> tuple[dict[str, str], dict[str, list[int]]]:
    """A file's metadata and its tensors' shapes."""
    with _opened(path) as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  it is no dict
        return dict(file.metadata() or {}), shapes


def _tensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.dtype == torch.int64):
            raise WeightsError(f"{path}: {name} is {tensor.dtype}; expected floating-point numbers")
        if not bool(tensor.float().isfinite().all()):
            raise WeightsError(
                f"{path}: {name} holds what is no number; the file is damaged, or of a run that diverged"
            )
    return tensors


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
            f"{path}: not a whole safetensors file ({error}); copy it again, or convert it to"
            " safetensors"
        ) from error


def _is_anchors(name: str) -> bool:
    """`model.24.anchors`, in the P6 family `model.33.anchors`: chosen for data, not learnt."""
    return name.endswith(".anchors")


def _other_anchors(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, "the network keeps its own anchors")
        for name, own in state.items()
        if _is_anchors(name) and name in tensors and tensors[name].shape == own.shape
        if not torch.equal(tensors[name].to(own), own)
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def misfits(
    found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]
) -> tuple[tuple[str, str], ...]:
    """Names whose shapes in a file differ from the network's, or that only one of them has, each with the reason."""
    reasons = []
    for name, shape in expected.items():
        if name not in found:
            reasons.append((name, "not in the file"))
        elif tuple(found[name]) != tuple(shape):
            both = f"{tuple(found[name])} in the file, {tuple(shape)} in the network"
            reasons.append((name, both))
    reasons += [(name, "not in the network") for name in found if name not in expected]
    return tuple(reasons)


def listed(items: tuple[tuple[str, str], ...]) -> str:
    """The first names with their reasons, and how many more there are."""
    named = ", ".join(f"{name} ({reason})" for name, reason in items[:NAMED])
    more = len(items) - NAMED
    return f"{named} and {more} more" if more > 0 else named
