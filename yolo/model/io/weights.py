"""Weights in files: read safetensors and checkpoints of the public YOLOv5, write safetensors."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from yolo.architecture import is_learned, tensor_shapes
from yolo.errors import WeightsError
from yolo.model.io.fit import Fit, Reasons, last_layer, listed, misfits
from yolo.model.io.ultralytics import MAX_IMAGE_SIZE, read_published, require_finite
from yolo.model.io.weights_file import FileKind, kind_of, open_safetensors
from yolo.model.network import YOLOv5
from yolo.recipe.plain_text import is_plain

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """What a file holds."""

    tensors: Mapping[str, Tensor]
    """Finite floating-point numbers, and counters; by the names of our state dict."""
    metadata: Mapping[str, str]
    """As `weights_content` writes them, unless another program wrote the file."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Which tensors came from the file."""

    matched: tuple[str, ...]
    skipped: Reasons
    """Tensors of the file or of the network that were not loaded."""
    concerns: tuple[str, ...] = ()
    """Warnings: what is likely not as intended."""

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
    described = _described(model, metadata) | {"format": "pt"}
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


def import_checkpoint(path: Path, out: Path, class_names: Sequence[str] | None = None) -> str:
    """Write a checkpoint's network with `save_weights`, atomically, and return one line about it.

    Folders of `out` are created. WeightsError as for `read_published`, and if `out` cannot be written.
    """
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out}: expected the name of a .safetensors file to write")
    model, metadata = read_published(path, class_names)
    if out.exists() and out.samefile(path):
        raise WeightsError(f"{out}: is the checkpoint itself; name another file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, model, metadata)
    return (
        f"{out}: yolov5{model.variant}, {model.classes} classes, {metadata['image_size']} pixels,"
        f" {len(model.state_dict())} tensors of {path}"
    )


def read_weights(path: Path) -> StoredWeights:
    """Read a safetensors file, or a checkpoint of the public YOLOv5 as `import_checkpoint` does.

    The kind is told by the content. WeightsError if it is another, missing, damaged, or holds non-finite numbers.
    """
    if kind_of(path) is FileKind.CHECKPOINT:
        model, metadata = read_published(path)
        logger.info(
            "%s: a checkpoint of yolov5%s with %d classes, read as by `yolo import`",
            path,
            model.variant,
            model.classes,
        )
        return StoredWeights(model.state_dict(), _described(model, metadata))
    with open_safetensors(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        metadata = dict(file.metadata() or {})
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.dtype == torch.int64):
            raise WeightsError(f"{path}: {name} is {tensor.dtype}; expected floating-point numbers")
        require_finite(path, name, tensor)
    return StoredWeights(tensors, metadata)


def load_weights(
    path: Path, model: YOLOv5, class_names: Sequence[str] | None = None
) -> LoadedWeights:
    """Copy those of a file's tensors into the network that fit, for a training to start from.

    The others stay and are named, and the network keeps the anchors chosen for its data. Other `class_names` than the
    file's are a concern if the last convolutions are loaded. WeightsError if the file cannot be read, or no learned
    tensor fits; the network is then unchanged.
    """
    stored, state = read_weights(path), model.state_dict()
    fit = Fit.of(path, _shapes(stored.tensors), model.variant, model.classes)
    own_anchors = tuple(
        (name, "the network keeps its own anchors")
        for name in fit.matched
        if name.endswith(".anchors")
        and not torch.equal(stored.tensors[name].to(state[name]), state[name])
    )
    kept = dict(own_anchors)
    matched = tuple(name for name in fit.matched if name not in kept)
    _copy(stored, matched, model)
    head = last_layer(model.variant)
    is_head_loaded = any(is_learned(name) and name.startswith(head) for name in matched)
    other_names = _other_names(stored.metadata, class_names) if is_head_loaded else ""
    concerns = tuple(filter(None, (fit.concern, other_names)))
    return LoadedWeights(matched, fit.skipped + own_anchors, concerns)


def build_from_weights(path: Path) -> tuple[YOLOv5, dict[str, str]]:
    """The network that a file describes, with its weights and anchors, and the file's metadata.

    WeightsError if it cannot be read, or its tensors are not exactly those of the network that its metadata names.
    """
    stored = read_weights(path)
    metadata = dict(stored.metadata)
    try:
        variant, classes = metadata["variant"], int(metadata["classes"])
        unfit = misfits(_shapes(stored.tensors), tensor_shapes(variant, classes))
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
    _copy(stored, tuple(stored.tensors), model)
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


def _copy(stored: StoredWeights, names: Sequence[str], model: YOLOv5) -> None:
    state = model.state_dict()
    with torch.no_grad():
        for name in names:
            state[name].copy_(stored.tensors[name])


def _described(model: YOLOv5, metadata: Mapping[str, str]) -> dict[str, str]:
    return {
        **metadata,
        "variant": model.variant,
        "classes": str(model.classes),
        "anchors": json.dumps(model.anchors.tolist()),
    }


def _other_names(metadata: Mapping[str, str], class_names: Sequence[str] | None) -> str:
    """A warning if the file's class names are others, or in another order; else empty."""
    try:
        theirs = json.loads(metadata.get("class_names", "null"))
    except (ValueError, RecursionError):
        theirs = None
    if class_names is None or not isinstance(theirs, list) or len(theirs) != len(class_names):
        return ""
    different = [i for i, name in enumerate(class_names) if theirs[i] != name]
    if not different:
        return ""
    first = different[0]
    what = "are in another order" if sorted(map(str, theirs)) == sorted(class_names) else "differ"
    return (
        f"the class names of weights and data {what} (class {first} is {shown(theirs[first])} in the weights, and"
        f" {class_names[first]!r} in the data), but the last convolutions were loaded as they are: training has to unlearn"
        " them"
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
