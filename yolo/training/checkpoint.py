"""Checkpoints: DeepSpeed's own state, the averaged weights, and where in the run they were taken."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import deepspeed.comm as dist

from yolo.communication.meter import Traffic
from yolo.errors import CheckpointError
from yolo.model import YOLOv5
from yolo.model.weights import load_weights, save_weights
from yolo.recipe.schema import Recipe
from yolo.training.averaging import WeightAverage
from yolo.training.ranks import Ranks, from_first
from yolo.training.recorder import Span
from yolo.training.run_directory import STATE, RunDirectory

AVERAGE = "average.safetensors"
LOSS_SCALER = "loss_scaler"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    steps_done: int = 0
    average_updates: int = 0
    best_ap: float = -1.0
    wall_seconds: float = 0.0
    total: Span = field(default_factory=Span)
    """What the training steps so far cost."""

    @classmethod
    def of(cls, raw: dict[str, Any]) -> "Progress":
        """The progress that `dataclasses.asdict` wrote down; TypeError or KeyError where it did not."""
        traffic = Traffic(**raw["total"]["traffic"])
        return cls(**(raw | {"total": Span(**(raw["total"] | {"traffic": traffic}))}))


@dataclass(frozen=True, slots=True)
class _State:
    """What must fit before DeepSpeed is asked to load: its own messages do not say what is wrong."""

    variant: str
    classes: int
    optimizer: str
    stage: int
    world_size: int
    global_batch: int
    steps_per_epoch: int
    """Position in the run alone decides rates and samples, so both must stay what they were."""
    progress: Progress


def save_checkpoint(
    engine: Any,
    average: WeightAverage,
    plain: YOLOv5,
    progress: Progress,
    recipe: Recipe,
    steps_per_epoch: int,
    run: RunDirectory,
) -> None:
    """Write a checkpoint and, last of all, point `latest` at it; collective.

    `plain` holds the averaged weights (`average.write_into` was called on it).
    """
    tag = f"epoch-{progress.epochs_done:04d}"
    scaler = engine.torch_autocast_z0_gradscaler  # DeepSpeed forgets it
    client_state = {LOSS_SCALER: scaler.state_dict()} if scaler is not None else {}
    engine.save_checkpoint(
        str(run.checkpoints), tag=tag, client_state=client_state, save_latest=False
    )
    if dist.get_rank() == 0:
        folder = run.checkpoints / tag
        save_weights(folder / AVERAGE, plain, {})
        state = _State(
            recipe.model.variant,
            plain.classes,
            recipe.optimizer.type,
            recipe.zero.stage,
            dist.get_world_size(),
            recipe.train.global_batch,
            steps_per_epoch,
            progress,
        )
        _write_whole(folder / STATE, json.dumps(asdict(state), indent=1))
        _write_whole(run.checkpoints / "latest", tag)
        _remove_older(run.checkpoints, tag, recipe.checkpoint.keep)
    dist.barrier()


def load_checkpoint(
    engine: Any,
    average: WeightAverage,
    plain: YOLOv5,
    recipe: Recipe,
    steps_per_epoch: int,
    run: RunDirectory,
    ranks: Ranks,
) -> Progress:
    """Take up the newest checkpoint of a run; collective.

    Raises CheckpointError where it is missing, unreadable or of a run that this one cannot go on with: never does a
    run start anew in silence.
    """
    folder = run.newest_checkpoint
    if folder is None:
        raise CheckpointError(_unreadable(run.checkpoints, "there is no checkpoint in it"))
    try:
        raw = json.loads((folder / STATE).read_text(encoding="utf-8"))
        state = _State(**(raw | {"progress": Progress.of(raw["progress"])}))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(_unreadable(folder / STATE, error)) from error
    wanted = {
        "model.variant": (state.variant, recipe.model.variant),
        "number of classes": (state.classes, plain.classes),
        "optimizer.type": (state.optimizer, recipe.optimizer.type),
        "zero.stage": (state.stage, recipe.zero.stage),
        "number of ranks": (state.world_size, ranks.world_size),
        "train.global_batch": (state.global_batch, recipe.train.global_batch),
        "steps an epoch (images / train.global_batch)": (state.steps_per_epoch, steps_per_epoch),
    }
    for what, (saved, asked) in wanted.items():
        if saved != asked:
            raise CheckpointError(
                f"{folder}: was saved with {what} {saved}, and this run has {asked}; go on with {saved}, "
                "or start anew with checkpoint.resume=never"
            )
    problem = None
    try:
        path, client_state = engine.load_checkpoint(str(run.checkpoints), tag=folder.name)
        if path is None:
            problem = "DeepSpeed found nothing to load in it"
        elif engine.torch_autocast_z0_gradscaler is not None and LOSS_SCALER in client_state:
            engine.torch_autocast_z0_gradscaler.load_state_dict(client_state[LOSS_SCALER])
        load_weights(folder / AVERAGE, plain, allow_mismatch=False)
    except Exception as error:  # a torn file raises whatever its bytes happen to spell
        problem = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
    if problem is not None:
        raise CheckpointError(_unreadable(folder, problem))
    average.read_from(plain, state.progress.average_updates)
    progress: Progress = from_first(ranks, state.progress)
    return progress


def _unreadable(path: Path, why: object) -> str:
    return (
        f"{path}: cannot be read: {why}; name another run with checkpoint.resume=PATH, or start anew with "
        "checkpoint.resume=never"
    )


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _remove_older(checkpoints: Path, newest: str, keep: int) -> None:
    older = sorted(path for path in checkpoints.glob("epoch-*") if path.name != newest)
    for folder in older[: max(0, len(older) + 1 - keep)]:
        shutil.rmtree(folder)
