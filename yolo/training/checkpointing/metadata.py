"""What a checkpoint stores besides tensors, and the checkpoint that a run resumes from."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from yolo.errors import CheckpointError
from yolo.training.checkpointing.atomic_dir import quarantine, remove_unfinished, verify
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.full_state import Counters
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.checkpointing.train_state import TrainProgress
from yolo.training.engine.distributed import DistributedContext, run_on_main

logger = logging.getLogger(__name__)

STATE = "state.json"
LONGEST_REASON = 300
FORMAT = 2
"""Format 1 was DeepSpeed's own checkpoints."""


@dataclass(frozen=True, slots=True)
class CheckpointMetadata:
    """state.json: what a checkpoint stores besides tensors."""

    identity: RunConfig
    progress: TrainProgress
    counters: Counters
    scaler: dict[str, int | float]
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> "CheckpointMetadata":
        """Raises CheckpointError if it cannot be read."""
        try:
            saved = TypeAdapter(cls).validate_json((folder / STATE).read_bytes(), strict=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(unreadable(folder, error)) from error
        if saved.format != FORMAT:
            wrong = f"it is of format {saved.format}, and this program reads {FORMAT}"
            raise CheckpointError(unreadable(folder, wrong))
        return saved


def saved_setting(folder: Path, key: str) -> Any:
    """A value of the recipe that a checkpoint was saved with; None if unknown: loading reports why."""
    try:
        return CheckpointMetadata.read(folder).identity.settings.get(key)
    except CheckpointError:
        return None


def latest_valid(
    run: RunDirectory, context: DistributedContext, before_step: int | None = None
) -> Path | None:
    """The newest valid checkpoint, the same on all ranks; None if the run has no checkpoint. Collective.

    A damaged one is logged and quarantined. With `before_step`: the newest taken before that step, or else the oldest.

    Raises CheckpointError if the run has checkpoints, and none is valid: a run never restarts silently.
    """

    def find() -> Path | None:
        try:
            return _latest_valid(run, before_step)
        except OSError as error:
            raise CheckpointError(unreadable(run.checkpoints, error)) from error

    return run_on_main(context, find)


def _latest_valid(run: RunDirectory, before_step: int | None) -> Path | None:
    remove_unfinished(run.checkpoints)
    damaged, later = [], None
    for folder in run.published():
        reason = verify(folder)
        if reason is None:
            if (
                before_step is None
                or CheckpointMetadata.read(folder).progress.steps_done < before_step
            ):
                return folder
            later = folder
            continue
        aside = quarantine(folder)
        logger.warning("%s: is skipped: %s; renamed to %s", folder, reason, aside.name)
        damaged.append(aside.name)
    if damaged and later is None:
        raise CheckpointError(unreadable(run.checkpoints, f"none of {', '.join(damaged)} is valid"))
    return later


def unreadable(path: Path, why: object) -> str:
    """The message for a checkpoint that cannot be resumed."""
    reason = " ".join(str(why).split())[:LONGEST_REASON]
    return (
        f"{path}: cannot be read: {reason}; name another run with checkpoint.resume=PATH, or start a new run with "
        "checkpoint.resume=never"
    )
