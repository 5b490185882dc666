"""How far a run has come: what a checkpoint says besides tensors."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from yolo.training.loop.metrics import StepTotals

Number = Annotated[int, Field(ge=0)]
"""Bounds are for those that are read from a file."""


@dataclass(frozen=True, slots=True)
class TrainState:
    """How far a run has come."""

    epochs_done: Number = 0
    steps_into_epoch: Number = 0
    """Of the epoch after those; 0 at an epoch's end."""
    steps_done: Number = 0
    owes_evaluation: bool = False
    """Whether the run left before it had evaluated the last of those epochs."""
    average_updates: Number = 0
    ap: float | None = None
    """Of the evaluation right before; None where there was none."""
    best_ap: float = -1.0
    wall_seconds: float = 0.0
    guard: dict[str, Any] = field(default_factory=dict)
    """What the stability guard remembers (`StabilityGuard.state`)."""
    total: StepTotals = field(default_factory=StepTotals)
    """What the training steps so far cost."""

    @property
    def position(self) -> str:
        """In words."""
        within = f" and {self.steps_into_epoch} steps of the next" if self.steps_into_epoch else ""
        return f"epoch {self.epochs_done}{within}"

    @property
    def tag(self) -> str:
        """The checkpoint's name; names sort as the run goes."""
        within = f"-step-{self.steps_into_epoch:07d}" if self.steps_into_epoch else ""
        return f"epoch-{self.epochs_done:04d}{within}"
