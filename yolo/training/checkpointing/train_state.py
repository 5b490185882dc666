"""The state of a run on one rank, and the part of it that a checkpoint stores beside tensors."""

import time
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from yolo.communication.metering.traffic import Traffic
from yolo.communication.strategy import SyncStrategy
from yolo.tracking.records import StepCosts
from yolo.training.engine.build import SkippedStepDetector
from yolo.training.engine.ema import ModelEMA
from yolo.training.resilience.anomaly_guard import StabilityGuard

Number = Annotated[int, Field(ge=0)]
"""Bounded, because it is also read from a file."""


@dataclass(slots=True)
class StepTotals:
    """The cost of some training steps; evaluations and checkpoints do not count."""

    steps: int = 0
    skipped: float = 0
    """Steps that changed no weight, as a mean over the ranks."""
    images: int = 0
    seconds: float = 0.0
    data_wait_seconds: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    def add(self, other: "StepTotals") -> None:
        """Add other steps to these."""
        self.steps += other.steps
        self.skipped += other.skipped
        self.images += other.images
        self.seconds += other.seconds
        self.data_wait_seconds += other.data_wait_seconds
        self.traffic.add(other.traffic)

    def mean(self) -> StepCosts:
        """The cost per step."""
        steps, seconds, traffic = max(1, self.steps), max(1e-9, self.seconds), self.traffic
        return StepCosts(
            step_seconds=seconds / steps,
            images_per_second=self.images / seconds,
            data_wait_seconds=self.data_wait_seconds / steps,
            communication_seconds=traffic.seconds / steps,
            exposed_communication_seconds=traffic.exposed_seconds / steps,
            payload_bytes=traffic.payload_bytes / steps,
            wire_bytes=traffic.wire_bytes / steps,
            traffic_by_kind=traffic.by_kind_per(steps),
        )


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far a run has come: `progress` in a checkpoint's state.json."""

    epochs_done: Number = 0
    steps_into_epoch: Number = 0
    """Steps of the epoch after those; 0 at an epoch's end."""
    steps_done: Number = 0
    owes_evaluation: bool = False
    """Whether the run stopped before it evaluated the last of those epochs."""
    average_updates: Number = 0
    ap: float | None = None
    """AP of the evaluation right before; None if there was none."""
    best_ap: float = -1.0
    wall_seconds: float = 0.0
    guard: dict[str, Any] = field(default_factory=dict)
    """`StabilityGuard.state_dict`."""
    total: StepTotals = field(default_factory=StepTotals)
    """What the training steps so far cost."""

    @property
    def position(self) -> str:
        """The position in the run, for messages."""
        within = f" and {self.steps_into_epoch} steps of the next" if self.steps_into_epoch else ""
        return f"epoch {self.epochs_done}{within}"

    @property
    def tag(self) -> str:
        """The checkpoint's name; names sort in the order of the run."""
        within = f"-step-{self.steps_into_epoch:07d}" if self.steps_into_epoch else ""
        return f"epoch-{self.epochs_done:04d}{within}"


class TrainState:
    """Everything that changes during a run, on one rank: engine, strategy, averaged weights, guard and position."""

    def __init__(
        self, engine: Any, strategy: SyncStrategy, ema: ModelEMA, guard: StabilityGuard
    ) -> None:
        self.engine = engine
        self.strategy = strategy
        self.ema = ema
        self.guard = guard
        self.skipped_steps = SkippedStepDetector(engine)
        self.step = 0
        """Optimizer steps taken, those before a resume included."""
        self.epochs_done = 0
        self.steps_into_epoch = 0
        self.owes_evaluation = False
        self.ap: float | None = None
        self.best_ap = -1.0
        self.total = StepTotals()
        self._started = time.perf_counter()

    @property
    def wall_seconds(self) -> float:
        """Seconds since the run's first start, without the pauses between its starts."""
        return time.perf_counter() - self._started

    def state_dict(self) -> TrainProgress:
        """What a checkpoint stores of it beside tensors."""
        return TrainProgress(
            epochs_done=self.epochs_done,
            steps_into_epoch=self.steps_into_epoch,
            steps_done=self.step,
            owes_evaluation=self.owes_evaluation,
            average_updates=self.ema.updates,
            ap=self.ap,
            best_ap=self.best_ap,
            wall_seconds=self.wall_seconds,
            guard=self.guard.state_dict(),
            total=self.total,
        )

    def load_state_dict(self, progress: TrainProgress) -> None:
        """Resume at a checkpoint's position; its tensors are loaded by `CheckpointManager`."""
        self.epochs_done = progress.epochs_done
        self.steps_into_epoch = progress.steps_into_epoch
        self.step = progress.steps_done
        self.owes_evaluation = progress.owes_evaluation
        self.best_ap = progress.best_ap
        self.total = progress.total
        self._started = time.perf_counter() - progress.wall_seconds
        self.guard.load_state_dict(progress.guard)

    def on_weights_loaded(self) -> None:
        """Forget what belonged to the weights before: steps not averaged yet, and the loss scale."""
        self.ema.pending_steps = 0
        self.skipped_steps = SkippedStepDetector(self.engine)
