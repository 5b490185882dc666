"""The response to anomalies: each is recorded, and after too many the run rolls back to a good checkpoint."""

import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from yolo.data.loader.samples import TrainingBatch
from yolo.errors import YoloError
from yolo.training.checkpointing.manager import CheckpointManager
from yolo.training.checkpointing.metadata import latest_valid
from yolo.training.resilience.anomaly_guard import Anomaly
from yolo.training.resilience.nonfinite import diagnosis

logger = logging.getLogger(__name__)


class TrainingDiverged(YoloError):
    """Skipping steps and rolling back did not help."""


class Rollback:
    """Records anomalies, rolls back, and gives up; the last two are collective."""

    def __init__(
        self,
        checkpoints: CheckpointManager,
        images_of: Callable[[int], Sequence[str]],
        dtype: torch.dtype,
        events: Path,
    ) -> None:
        """`images_of` names this rank's images of a step, counted from 1; `dtype` is that of the network's input."""
        self.checkpoints = checkpoints
        self.guard = checkpoints.state.guard
        self.images_of = images_of
        self.dtype = dtype
        self.events = events
        self._suspect: tuple[int, Sequence[TrainingBatch]] = (0, ())

    def suspect(self, step: int, batch: Sequence[TrainingBatch]) -> None:
        """Remember the newest step that may have caused an anomaly, with this rank's images."""
        self._suspect = step, batch

    def record(self, step: int, anomaly: Anomaly) -> None:
        """Write an anomaly of a step, or of the local steps before it, to the log and events.jsonl."""
        spike, skipped = ("spike", "applied, clipped"), ("skipped", "skipped")
        kind, what = spike if anomaly.was_applied else skipped
        self._event(kind, step, f"{anomaly.reason}; {what}")

    def roll_back(self, step: int) -> None:
        """Restore weights, optimizer and average of the last good checkpoint, and resume after `step`.

        The images since that checkpoint are not repeated, and the learning rate is lowered for a while. Raises
        TrainingDiverged, with a diagnosis, if the run rolled back too often already or has no checkpoint.
        """
        run, context = self.checkpoints.run, self.checkpoints.context
        first_bad = self.guard.recent_anomalies[0]
        if context.is_main:
            self.checkpoints.wait()
        folder = latest_valid(run, context, before_step=first_bad)
        if folder is None or self.guard.has_given_up:
            suspect, batch = self._suspect
            found = diagnosis(
                self.checkpoints.state.engine,
                batch,
                self.images_of(suspect) if suspect else (),
                self.dtype,
                context,
            )
            tried = (
                f"the run rolled back {self.guard.rollbacks} times already"
                if folder
                else "there is no checkpoint to roll back to"
            )
            anomalies = len(self.guard.recent_anomalies)
            text = f"{anomalies} bad steps since step {first_bad}, and {tried}: {found}"
            self._event("stopped", step, text)
            raise TrainingDiverged(
                f"step {step}: {text}. Lower optimizer.lr, lengthen train.warmup_epochs, or remove the images; "
                "checkpoints taken before are valid"
            )
        restored = self.checkpoints.restore(folder)
        self.guard.on_rollback(step)
        text = (
            f"back to the weights after step {restored.steps_done} ({folder.name}); the images of steps "
            f"{restored.steps_done + 1} to {step} are not repeated, and training continues with "
            f"{self.guard.lr_factor(step):g} times the learning rate until step {self.guard.calm_until}"
        )
        self._event("rolled back", step, text)

    def _event(self, kind: str, step: int, text: str) -> None:
        logger.info("step %d: %s", step, text)
        if not self.checkpoints.context.is_main:
            return
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        try:
            with self.events.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record | {"kind": kind, "step": step, "text": text}) + "\n")
        except OSError as error:
            logger.warning("%s: %s", self.events, error)
