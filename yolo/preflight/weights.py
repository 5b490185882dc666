"""Whether a run could start from the weights that its recipe names. Imports torch only for a checkpoint (*.pt)."""

from collections.abc import Iterator
from pathlib import Path

from yolo.errors import WeightsError
from yolo.model.io.fit import Fit, Shapes
from yolo.model.io.weights_file import FileKind, kind_of, read_header
from yolo.recipe.schema.model import ModelSection

ANY_CLASSES = 80
"""The data's number is not known here; tensors that follow from it may differ."""


def unfit_weights(model: ModelSection) -> Iterator[str]:
    """One line if `model.weights` is missing, damaged, of another kind, or fits the network in no learned tensor."""
    if model.weights is None:
        return
    path = Path(model.weights)
    try:
        Fit.of(path, _shapes(path), model.variant, ANY_CLASSES)
    except WeightsError as error:
        yield f"model.weights: {error}"


def _shapes(path: Path) -> Shapes:
    if kind_of(path) is FileKind.SAFETENSORS:
        shapes, _ = read_header(path)
        return shapes
    from yolo.model.io.ultralytics import read_published

    model, _ = read_published(path)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
