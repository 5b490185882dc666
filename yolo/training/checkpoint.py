"""Checkpoints: DeepSpeed's own state, the averaged weights, and where in the run they were taken."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed.comm as dist

from yolo.errors import CheckpointError
from yolo.model import YOLOv5
from yolo.model.weights import load_weights, save_weights
from yolo.recipe.schema import Recipe
from yolo.training.averaging import WeightAverage
from yolo.training.ranks import Ranks, from_first
from yolo.training.run_directory import RunDirectory

AVERAGE = "average.safetensors"
STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    epochs_done: int = 0
    steps_done: int = 0
    average_updates: int = 0
    best_ap: float = -1.0
    wall_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _State:
    """What must fit before DeepSpeed is asked to load: its own messages do not say what is wrong."""

    variant: str
    classes: int
    optimizer: str
    stage: int
    world_size: int
    progress: Progress


def save_checkpoint(
    engine: Any,
    average: WeightAverage,
    plain: YOLOv5,
    progress: Progress,
    recipe: Recipe,
    run: RunDirectory,
) -> None:
    """Write a checkpoint and, last of all, point `latest` at it; collective.

    `plain` holds the averaged weights (`average.write_into` was called on it).
    """
    tag = f"epoch-{progress.epochs_done:04d}"
    engine.save_checkpoint(str(run.checkpoints), tag=tag, save_latest=False)
    if dist.get_rank() == 0:
        folder = run.checkpoints / tag
        save_weights(folder / AVERAGE, plain, {})
        state = _State(
            recipe.model.variant,
            plain.classes,
            recipe.optimizer.type,
            recipe.zero.stage,
            dist.get_world_size(),
            progress,
        )
        _write_whole(folder / STATE, json.dumps(asdict(state), indent=1))
        _write_whole(run.checkpoints / "latest", tag)
        _remove_older(run.checkpoints, recipe.checkpoint.keep)
    dist.barrier()


def load_checkpoint(
    engine: Any,
    average: WeightAverage,
    plain: YOLOv5,
    recipe: Recipe,
    run: RunDirectory,
    ranks: Ranks,
) -> Progress:
    """Take up the newest checkpoint of a run; collective.

    Raises CheckpointError where it is missing, unreadable or of a run that this one cannot go on with: never does a
    run start anew in silence.
    """
    tag = _read(run.checkpoints / "latest").strip()
    folder = run.checkpoints / tag
    try:
        raw = json.loads(_read(folder / STATE))
        state = _State(**(raw | {"progress": Progress(**raw["progress"])}))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(_unreadable(folder, error)) from error
    wanted = {
        "model.variant": (state.variant, recipe.model.variant),
        "number of classes": (state.classes, plain.classes),
        "optimizer.type": (state.optimizer, recipe.optimizer.type),
        "zero.stage": (state.stage, recipe.zero.stage),
        "number of ranks": (state.world_size, ranks.world_size),
    }
    for what, (saved, asked) in wanted.items():
        if saved != asked:
            raise CheckpointError(
                f"{folder}: was saved with {what} {saved}, and this run has {asked}; go on with {saved}, "
                "or start anew with checkpoint.resume=never"
            )
    problem = None
    try:
        path, _ = engine.load_checkpoint(str(run.checkpoints), tag=tag)
        if path is None:
            problem = "DeepSpeed found nothing to load in it"
        load_weights(folder / AVERAGE, plain, allow_mismatch=False)
    except Exception as error:  # a torn file raises whatever its bytes happen to spell
        problem = " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])
    if problem is not None:
        raise CheckpointError(_unreadable(folder, problem))
    average.read_from(plain, state.progress.average_updates)
    progress: Progress = from_first(ranks, state.progress)
    return progress


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(_unreadable(path, error)) from error


def _unreadable(path: Path, why: object) -> str:
    return (
        f"{path}: cannot be read: {why}; name another run with checkpoint.resume=PATH, or start anew with "
        "checkpoint.resume=never"
    )


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _remove_older(checkpoints: Path, keep: int) -> None:
    folders = sorted(path for path in checkpoints.glob("epoch-*") if path.is_dir())
    for folder in folders[:-keep]:
        shutil.rmtree(folder)
