"""The result of a run: the numbers of summary.json, and the table printed at the end."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch

from yolo.communication.metering.meter import KindTraffic
from yolo.tracking.records import PredictedAndMeasured
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.checkpointing.train_state import TrainState
from yolo.training.loop.plan_comparison import as_json
from yolo.training.loop.validator import ValidationResult


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run reached, and what it cost."""

    recipe: str
    ap: float | None
    """AP of the last evaluation; None if the validation split has no boxes."""
    ap50: float | None
    best_ap: float | None
    epochs: int
    steps: int
    """Optimizer steps, including those before a resume."""
    world_size: int
    wall_seconds: float
    """From the first step to the last evaluation, including evaluations and checkpoints."""
    images_per_second: float
    """Over all ranks, training steps only."""
    step_seconds: float
    data_wait_seconds_per_step: float
    communication_seconds_per_step: float
    """From start to end of a training step's collectives, mean over the ranks."""
    exposed_communication_seconds_per_step: float
    """A rank's wait for collectives in a training step, mean over the ranks: what computation did not hide."""
    payload_bytes_per_step_per_rank: float
    """Handed to collectives in a training step."""
    wire_bytes_per_step_per_rank: float
    """Sent in a training step; as many are received."""
    wire_bytes_per_rank: float
    """Sent in all training steps."""
    collectives_per_step: float
    traffic_by_kind: dict[str, KindTraffic]
    """Per training step of the main rank, by kind of collective."""
    plan: dict[str, dict[str, Any]]
    """Predicted and measured figures by name; empty if the recipe names no cluster.profile."""
    resumed_from_epoch: int
    skipped_steps: int
    """Skipped because their loss or gradient was not finite, or a spike; events.jsonl lists each."""
    rollbacks: int
    """How often the run rolled back to a checkpoint's weights."""
    deepspeed_version: str
    torch_version: str

    def write(self, path: Path) -> None:
        """Write summary.json, atomically."""
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def of(
        cls,
        recipe: str,
        state: TrainState,
        result: ValidationResult,
        resumed_from: int,
        world_size: int,
        comparisons: Sequence[PredictedAndMeasured],
    ) -> "RunSummary":
        """The summary of a run that has reached its end."""
        total = state.total
        steps = max(1, total.steps)
        seconds = max(1e-9, total.seconds)
        return cls(
            recipe=recipe,
            ap=result.ap,
            ap50=result.ap50,
            best_ap=state.best_ap if state.best_ap >= 0 else None,
            epochs=state.epochs_done,
            steps=state.step,
            world_size=world_size,
            wall_seconds=state.wall_seconds,
            images_per_second=total.images / seconds,
            step_seconds=seconds / steps,
            data_wait_seconds_per_step=total.data_wait_seconds / steps,
            communication_seconds_per_step=total.traffic.seconds / steps,
            exposed_communication_seconds_per_step=total.traffic.exposed_seconds / steps,
            payload_bytes_per_step_per_rank=total.traffic.payload_bytes / steps,
            wire_bytes_per_step_per_rank=total.traffic.wire_bytes / steps,
            wire_bytes_per_rank=total.traffic.wire_bytes,
            collectives_per_step=total.traffic.calls / steps,
            traffic_by_kind=total.traffic.by_kind_per(steps),
            plan=as_json(comparisons),
            resumed_from_epoch=resumed_from,
            skipped_steps=state.guard.skipped,
            rollbacks=state.guard.rollbacks,
            deepspeed_version=deepspeed.__version__,
            torch_version=torch.__version__,
        )

    def rows(self, run: RunDirectory, wandb_directory: Path | None) -> list[tuple[str, str]]:
        """The rows of the closing table."""
        exposed_seconds = self.exposed_communication_seconds_per_step
        share = exposed_seconds / self.step_seconds if self.step_seconds else 0
        return [
            ("AP", f"{_number(self.ap)} (best {_number(self.best_ap)})"),
            ("AP50", _number(self.ap50)),
            (
                "training",
                f"{self.images_per_second:.1f} images/s, {self.steps} steps, {self.epochs} epochs",
            ),
            (
                "wall time",
                f"{self.wall_seconds:.0f} s, of it {self.step_seconds * 1000:.0f} ms per step",
            ),
            ("waiting for data", f"{self.data_wait_seconds_per_step * 1000:.1f} ms per step"),
            (
                "communication",
                f"{exposed_seconds * 1000:.1f} ms per step waited for ({share:.0%}), of "
                f"{self.communication_seconds_per_step * 1000:.1f} ms under way, in "
                f"{self.collectives_per_step:.0f} collectives; {exposed_seconds * self.steps:.1f} s waited in total",
            ),
            (
                "each rank sent",
                f"{self.wire_bytes_per_step_per_rank / 1e6:.2f} MB per step, {self.wire_bytes_per_rank / 1e9:.2f} GB in "
                f"total, and received as much ({self.world_size} ranks)",
            ),
            ("weights", str(run.best_weights)),
            ("checkpoint", str(run.checkpoints)),
            ("W&B run", str(wandb_directory) if wandb_directory else "none"),
            ("report", str(run.report)),
        ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
