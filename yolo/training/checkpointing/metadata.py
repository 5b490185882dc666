"""What a checkpoint says besides tensors, and which one a run goes on from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from yolo.errors import CheckpointError
from yolo.training.checkpointing.atomic_dir import quarantine, remove_unfinished, verify
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.full_state import Counters
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext, run_on_main
from yolo.training.loop.train_state import TrainState

STATE = "state.json"
LONGEST_REASON = 300
FORMAT = 2
"""1 were DeepSpeed's own checkpoints."""


@dataclass(frozen=True, slots=True)
class CheckpointMetadata:
    """What a checkpoint says besides tensors."""

    identity: RunConfig
    progress: TrainState
    counters: Counters
    scaler: dict[str, int | float]
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> "CheckpointMetadata":
        """Raises CheckpointError where it cannot be read."""
        try:
            saved = TypeAdapter(cls).validate_json((folder / STATE).read_bytes(), strict=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(unreadable(folder, error)) from error
        if saved.format != FORMAT:
            wrong = f"it is of format {saved.format}, and this program reads {FORMAT}"
            raise CheckpointError(unreadable(folder, wrong))
        return saved


def saved_setting(folder: Path, key: str) -> Any:
    """A value of the recipe that a checkpoint was saved with; None where it is not known: loading says why."""
    try:
        return CheckpointMetadata.read(folder).identity.settings.get(key)
    except CheckpointError:
        return None


def latest_valid(
    run: RunDirectory,
    ranks: DistributedContext,
    tell: Callable[[str], None],
    before_step: int | None = None,
) -> Path | None:
    """The newest checkpoint that is what was written, the same on all ranks; collective.

    Each newer one that is not is named, with what is wrong with it, and set aside. None where the run has no checkpoint.
    With `before_step` the newest that was taken before that step, or else the oldest.

    Raises CheckpointError where it has some, and none is whole: never does a run start anew in silence.
    """

    def look() -> Path | None:
        try:
            return _latest_valid(run, tell, before_step)
        except OSError as error:
            raise CheckpointError(unreadable(run.checkpoints, error)) from error

    return run_on_main(ranks, look)


def _latest_valid(
    run: RunDirectory, tell: Callable[[str], None], before_step: int | None
) -> Path | None:
    remove_unfinished(run.checkpoints)
    damaged, later = [], None
    for folder in run.published():
        wrong = verify(folder)
        if wrong is None:
            if (
                before_step is None
                or CheckpointMetadata.read(folder).progress.steps_done < before_step
            ):
                return folder
            later = folder
            continue
        aside = quarantine(folder)
        tell(f"warning: {folder}: is passed over: {wrong}; it is now called {aside.name}")
        damaged.append(aside.name)
    if damaged and later is None:
        raise CheckpointError(
            unreadable(run.checkpoints, f"none of {', '.join(damaged)} is what was written")
        )
    return later


def unreadable(path: Path, why: object) -> str:
    """The message for a checkpoint that cannot be gone on from."""
    said = " ".join(str(why).split())[:LONGEST_REASON]
    return (
        f"{path}: cannot be read: {said}; name another run with checkpoint.resume=PATH, or start anew with "
        "checkpoint.resume=never"
    )
