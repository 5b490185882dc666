"""What is done about bad steps: they are written down, and after too many the run goes back to a good state."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from yolo.data.loader.samples import TrainingBatch
from yolo.errors import YoloError
from yolo.training.checkpointing.manager import CheckpointManager
from yolo.training.checkpointing.metadata import latest_valid
from yolo.training.resilience.anomaly_guard import Anomaly, StabilityGuard
from yolo.training.resilience.nonfinite import diagnosis


class TrainingDiverged(YoloError):
    """Leaving steps out and going back did not help."""


class Rollback:
    """Notes bad steps, goes back, and gives up; the last two are collective."""

    def __init__(
        self,
        checkpoints: CheckpointManager,
        guard: StabilityGuard,
        images_of: Callable[[int], Sequence[str]],
        dtype: torch.dtype,
        events: Path,
    ) -> None:
        """`images_of` names this rank's images of a step, counted from 1."""
        self.checkpoints = checkpoints
        self.guard = guard
        self.images_of = images_of
        self.dtype = dtype
        self.events = events

    def note(self, step: int, fault: Anomaly) -> None:
        """Write down what was wrong with a step, or with those that ranks took alone until it."""
        kind, what = ("spike", "taken, clipped") if fault.was_taken else ("skipped", "left out")
        self._event(kind, step, f"{fault.words}; {what}")

    def roll_back(self, step: int, suspect: int, micro_batches: Sequence[TrainingBatch]) -> None:
        """Take the weights, the optimizer and the average of the last good checkpoint, and go on after `step`.

        `micro_batches` are this rank's of the step `suspect`, which may be to blame; 0 where none of its own is.

        The images since that checkpoint are passed over, and the learning rate is lowered for a while. Raises
        TrainingDiverged, with a diagnosis, where the run went back too often already or has nothing to go back to.
        """
        run, ranks = self.checkpoints.run, self.checkpoints.ranks
        first_bad = self.guard.recent_anomalies[0]
        if ranks.is_main:
            self.checkpoints.wait()
        folder = latest_valid(run, ranks, self.checkpoints.tell, before_step=first_bad)
        if folder is None or self.guard.has_given_up:
            found = diagnosis(
                self.checkpoints.state.engine,
                micro_batches,
                self.images_of(suspect) if suspect else (),
                self.dtype,
                ranks,
            )
            tried = (
                f"the run went back {self.guard.rollbacks} times already"
                if folder
                else "there is no checkpoint to go back to"
            )
            text = f"{len(self.guard.recent_anomalies)} bad steps since step {first_bad}, and {tried}: {found}"
            self._event("stopped", step, text)
            raise TrainingDiverged(
                f"step {step}: {text}. Lower optimizer.lr, lengthen train.warmup_epochs, or take the images out; "
                "checkpoints taken before are whole"
            )
        back_to = self.checkpoints.take_up(folder)
        self.guard.rolled_back(step)
        lower = f"{self.guard.lr_factor(step):g} times the learning rate until step {self.guard.calm_until}"
        text = (
            f"back to the weights after step {back_to.steps_done} ({folder.name}); the images of steps "
            f"{back_to.steps_done + 1} to {step} are passed over, and training goes on with {lower}"
        )
        self._event("rolled back", step, text)

    def _event(self, kind: str, step: int, text: str) -> None:
        if not self.checkpoints.ranks.is_main:
            return
        self.checkpoints.tell(f"step {step}: {text}")
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        try:
            with self.events.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record | {"kind": kind, "step": step, "text": text}) + "\n")
        except OSError as error:
            self.checkpoints.tell(f"warning: {self.events}: {error}")
