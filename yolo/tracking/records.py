"""The inputs of tracking, besides an evaluation's `Metrics`."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yolo.communication.metering.traffic import KindTraffic


@dataclass(frozen=True, slots=True)
class StepCosts:
    """The cost of a training step: the mean over some steps and all ranks."""

    step_seconds: float
    images_per_second: float
    """The sum over all ranks."""
    data_wait_seconds: float
    """Wait for images."""
    communication_seconds: float
    """From start to end of the collectives."""
    exposed_communication_seconds: float
    """Wait for collectives: what computation did not hide."""
    payload_bytes: float
    """Passed to collectives per rank."""
    wire_bytes: float
    """Sent per rank; as many are received."""
    traffic_by_kind: Mapping[str, KindTraffic]
    """The main rank's."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Means over the training steps since the last log, over the global batch and all ranks."""

    step: int
    """Steps taken."""
    epoch: float
    """Epochs trained, with the fraction of the current one."""
    skipped: float
    """Steps that changed no weight; the losses are of the others, NaN if there are none."""
    loss_box: float
    loss_obj: float
    loss_cls: float
    lr: float
    gradient_norm: float | None
    """None if it was not measured."""
    costs: StepCosts

    @property
    def loss(self) -> float:
        """The sum of the three parts."""
        return self.loss_box + self.loss_obj + self.loss_cls


CLASS_COLUMNS = ("class", "images", "boxes", "AP", "AP50", "precision", "recall")
"""The columns of a table of `ClassMetrics`."""


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
