"""What tracking is told, by shape alone: the floor's other packages fit these forms without knowing them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class KindTrafficResult(Protocol):
    """Collectives of one kind, as means a step of one rank."""

    @property
    def calls(self) -> float: ...

    @property
    def wire_bytes(self) -> float: ...

    @property
    def seconds(self) -> float: ...

    @property
    def exposed_seconds(self) -> float: ...


class StepResult(Protocol):
    """Training steps since the last log, as means a step."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        ...

    @property
    def epoch(self) -> float:
        """Epochs done, with the part of the one that goes on."""
        ...

    @property
    def skipped(self) -> float:
        """Of the steps since the last log, those that changed no weight; the losses are of the others."""
        ...

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
    def images_per_second(self) -> float:
        """Over all ranks."""
        ...

    @property
    def data_wait_seconds(self) -> float:
        """A step's wait for images."""
        ...

    @property
    def communication_seconds(self) -> float:
        """From the starts of a step's collectives to their ends."""
        ...

    @property
    def exposed_communication_seconds(self) -> float:
        """A step's wait for collectives."""
        ...

    @property
    def payload_bytes(self) -> float:
        """Handed to collectives by a rank in a step."""
        ...

    @property
    def wire_bytes(self) -> float:
        """Sent by a rank in a step."""
        ...

    @property
    def traffic_by_kind(self) -> Mapping[str, KindTrafficResult]: ...


class ClassResult(Protocol):
    """One class of an evaluation; None where it could not be measured."""

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
    """A P-R curve."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> np.ndarray:
        """(R,) at recalls evenly from 0 to 1."""
        ...


class ConfusionResult(Protocol):
    """A confusion matrix."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, then `background`."""
        ...

    @property
    def counts(self) -> np.ndarray:
        """(L, L): row = what it is, column = what it was detected as."""
        ...


class EvaluationResult(Protocol):
    """One evaluation; `yolo.evaluation.metrics.Metrics` fits. None where it could not be measured."""

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


@dataclass(frozen=True, slots=True)
class SampleBox:
    """A box in a sample picture."""

    left: float
    """All four in pixels of the picture."""
    top: float
    right: float
    bottom: float
    category: int
    """Index into the class names."""
    score: float | None = None
    """0..1; None of a true box."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplePicture:
    """A validation image with what is there and what was detected."""

    name: str
    image: np.ndarray
    """(H, W, 3) uint8, red green blue."""
    true: tuple[SampleBox, ...]
    predicted: tuple[SampleBox, ...]
