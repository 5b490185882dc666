"""The inputs of tracking. Protocols accept dataclasses of other packages without importing them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class KindTrafficResult(Protocol):
    """Collectives of one kind, as means per step of one rank."""

    @property
    def calls(self) -> float: ...

    @property
    def wire_bytes(self) -> float: ...

    @property
    def seconds(self) -> float: ...

    @property
    def exposed_seconds(self) -> float: ...


class StepResult(Protocol):
    """Training steps since the last log, as means per step. `yolo.training.loop.metrics.StepMetrics` explains its fields.

    `step` and `epoch` count finished ones, with the fraction of the current epoch. `skipped` of the steps changed no
    weight; the losses are of the others. Bytes are per rank, `images_per_second` is the sum over all ranks.
    """

    @property
    def step(self) -> int: ...

    @property
    def epoch(self) -> float: ...

    @property
    def skipped(self) -> float: ...

    @property
    def loss_box(self) -> float: ...

    @property
    def loss_obj(self) -> float: ...

    @property
    def loss_cls(self) -> float: ...

    @property
    def lr(self) -> float: ...

    @property
    def gradient_norm(self) -> float | None: ...

    @property
    def images_per_second(self) -> float: ...

    @property
    def data_wait_seconds(self) -> float: ...

    @property
    def communication_seconds(self) -> float: ...

    @property
    def exposed_communication_seconds(self) -> float: ...

    @property
    def payload_bytes(self) -> float: ...

    @property
    def wire_bytes(self) -> float: ...

    @property
    def traffic_by_kind(self) -> Mapping[str, KindTrafficResult]: ...


class ClassResult(Protocol):
    """One class of an evaluation; None if it could not be measured."""

    @property
    def name(self) -> str: ...

    @property
    def ap(self) -> float | None: ...

    @property
    def ap50(self) -> float | None: ...

    @property
    def precision(self) -> float | None: ...

    @property
    def recall(self) -> float | None: ...

    @property
    def images(self) -> int: ...

    @property
    def boxes(self) -> int: ...


class CurveResult(Protocol):
    """A P-R curve: precision (R,) at evenly spaced recalls from 0 to 1."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> np.ndarray: ...


class ConfusionResult(Protocol):
    """A confusion matrix: L labels (the classes, then `background`), counts (L, L) by true and detected label."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def counts(self) -> np.ndarray: ...


class EvaluationResult(Protocol):
    """One evaluation, as `yolo.evaluation.metrics.Metrics`; None if a figure could not be measured."""

    @property
    def ap(self) -> float | None: ...

    @property
    def ap50(self) -> float | None: ...

    @property
    def ap75(self) -> float | None: ...

    @property
    def ap_small(self) -> float | None: ...

    @property
    def ap_medium(self) -> float | None: ...

    @property
    def ap_large(self) -> float | None: ...

    @property
    def ar100(self) -> float | None: ...

    @property
    def per_class(self) -> Sequence[ClassResult]: ...

    @property
    def curves(self) -> Sequence[CurveResult]: ...

    @property
    def mean_curve(self) -> CurveResult | None: ...

    @property
    def confusion(self) -> ConfusionResult: ...


CLASS_COLUMNS = ("class", "images", "boxes", "AP", "AP50", "precision", "recall")
"""The columns of a table of `ClassResult`."""


@dataclass(frozen=True, slots=True)
class PredictedAndMeasured:
    """One figure that the planner predicted and the run measured."""

    what: str
    unit: str
    """`seconds` or `bytes`."""
    predicted: float
    measured: float

    @property
    def label(self) -> str:
        """The name for a table or chart."""
        return self.what.replace("_", " ")

    @property
    def error(self) -> float | None:
        """Signed, as a fraction of the measured value; None if that is 0."""
        return self.predicted / self.measured - 1 if self.measured else None

    def __str__(self) -> str:
        scale, unit = (1e3, "ms") if self.unit == "seconds" else (1e-6, "MB")
        error = "" if self.error is None else f" ({self.error:+.1%})"
        return f"{self.predicted * scale:.3g} {unit} predicted, {self.measured * scale:.3g} {unit} measured{error}"


@dataclass(frozen=True, slots=True)
class SampleBox:
    """A box in a sample image, in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    category: int
    """Index into the class names."""
    score: float | None = None
    """0..1; None for a ground-truth box."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplePicture:
    """A validation image with its true and its predicted boxes."""

    name: str
    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    true: tuple[SampleBox, ...]
    predicted: tuple[SampleBox, ...]
