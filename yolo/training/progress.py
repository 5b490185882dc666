"""How far a run has come: what a checkpoint says besides tensors."""

from dataclasses import dataclass, field
from typing import Any

from yolo.communication.meter import KindTraffic, Traffic
from yolo.training.recorder import Span


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    steps_into_epoch: int = 0
    """Of the epoch after those; 0 at an epoch's end."""
    steps_done: int = 0
    average_updates: int = 0
    ap: float | None = None
    """Of the evaluation right before; None where there was none."""
    best_ap: float = -1.0
    wall_seconds: float = 0.0
    guard: dict[str, Any] = field(default_factory=dict)
    """What the stability guard remembers (`StabilityGuard.state`)."""
    total: Span = field(default_factory=Span)
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

    @classmethod
    def of(cls, raw: dict[str, Any]) -> "Progress":
        """The progress that `dataclasses.asdict` wrote down; TypeError or KeyError where it did not."""
        total = raw["total"]
        kinds = total["traffic"]["by_kind"].items()
        by_kind = {kind: KindTraffic(**traffic) for kind, traffic in kinds}
        traffic = Traffic(**(total["traffic"] | {"by_kind": by_kind}))
        return cls(**(raw | {"total": Span(**(total | {"traffic": traffic}))}))
