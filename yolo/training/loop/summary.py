"""The result of a run: the numbers of summary.json, and the table printed at the end."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch

from yolo.tracking.records import PredictedAndMeasured, StepCosts
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.checkpointing.train_state import TrainState
from yolo.training.loop.plan_comparison import as_json
from yolo.training.loop.validator import ValidationResult

SUFFIXES = {
    **dict.fromkeys(
        ("data_wait_seconds", "communication_seconds", "exposed_communication_seconds"), "_per_step"
    ),
    **dict.fromkeys(("payload_bytes", "wire_bytes"), "_per_step_per_rank"),
}
"""What summary.json appends to the names of `StepCosts`."""


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
    costs: StepCosts
    """Per training step."""
    wire_bytes_per_rank: float
    """Sent in all training steps."""
    collectives_per_step: float
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
        figures = asdict(self)
        for name, value in figures.pop("costs").items():
            figures[name + SUFFIXES.get(name, "")] = value
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
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
        return cls(
            recipe=recipe,
            ap=result.ap,
            ap50=result.ap50,
            best_ap=state.best_ap if state.best_ap >= 0 else None,
            epochs=state.epochs_done,
            steps=state.step,
            world_size=world_size,
            wall_seconds=state.wall_seconds,
            costs=total.mean(),
            wire_bytes_per_rank=total.traffic.wire_bytes,
            collectives_per_step=total.traffic.calls / max(1, total.steps),
            plan=as_json(comparisons),
            resumed_from_epoch=resumed_from,
            skipped_steps=state.guard.skipped,
            rollbacks=state.guard.rollbacks,
            deepspeed_version=deepspeed.__version__,
            torch_version=torch.__version__,
        )

    def rows(self, run: RunDirectory, wandb_directory: Path | None) -> list[tuple[str, str]]:
        """The rows of the closing table."""
        costs, exposed_seconds = self.costs, self.costs.exposed_communication_seconds
        return [
            ("AP", f"{_number(self.ap)} (best {_number(self.best_ap)})"),
            ("AP50", _number(self.ap50)),
            (
                "training",
                f"{costs.images_per_second:.1f} images/s, {self.steps} steps, {self.epochs} epochs",
            ),
            (
                "wall time",
                f"{self.wall_seconds:.0f} s, of it {costs.step_seconds * 1000:.0f} ms per step",
            ),
            ("waiting for data", f"{costs.data_wait_seconds * 1000:.1f} ms per step"),
            (
                "communication",
                f"{exposed_seconds * 1000:.1f} ms per step waited for ({exposed_seconds / costs.step_seconds:.0%}), of "
                f"{costs.communication_seconds * 1000:.1f} ms under way, in "
                f"{self.collectives_per_step:.0f} collectives; {exposed_seconds * self.steps:.1f} s waited in total",
            ),
            (
                "each rank sent",
                f"{costs.wire_bytes / 1e6:.2f} MB per step, {self.wire_bytes_per_rank / 1e9:.2f} GB in "
                f"total, and received as much ({self.world_size} ranks)",
            ),
            ("weights", str(run.best_weights)),
            ("checkpoint", str(run.checkpoints)),
            ("W&B run", str(wandb_directory) if wandb_directory else "none"),
            ("report", str(run.report)),
        ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
