"""One checkpoint, damaged in many ways with its seal intact, as somebody who means harm would: what loading says."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.fuzz.nested import Entries, places, with_value
from tests.workers.several import report_each
from yolo.communication.strategy import SyncStrategy
from yolo.errors import CheckpointError
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.checkpointing.atomic_dir import MANIFEST, digest_of, verify
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.manager import (
    AVERAGE,
    MOMENTS,
    RANK_STATE,
    WEIGHTS,
    CheckpointManager,
)
from yolo.training.checkpointing.metadata import STATE
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.checkpointing.train_state import TrainState
from yolo.training.engine.build import start_engine
from yolo.training.engine.distributed import init_distributed
from yolo.training.engine.ema import ModelEMA
from yolo.training.resilience.anomaly_guard import StabilityGuard

SETTINGS = [
    *("train.global_batch=2", "model.image_size=64", "precision.dtype=fp32"),
    "cluster.threads_per_process=1",  # two wait for each other at every operation, where the cores are busy
]
JSON_VALUES = (None, "x", -1, 1e300, [], {}, True, [[]], "1")


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def load_damaged(settings: list[str], folder: Path) -> dict[str, str]:
    recipe = prepare("recipes/demo.yaml", [*SETTINGS, *settings], 1).resolved.recipe
    ranks = init_distributed(recipe)
    run = RunDirectory(folder / "run")
    run.create()
    engine = start_engine(YOLOv5("n", 3), recipe, ranks)
    loss = sum(output.square().mean() for output in engine(torch.rand(2, 3, 64, 64)))
    engine.backward(loss)
    engine.step()
    average = ModelEMA(engine.module, recipe.train)
    plain = YOLOv5("n", 3).requires_grad_(False)
    average.write_into(plain)
    identity = RunConfig({"zero.stage": 0}, ["a", "b", "c"], 28, 1)
    guard = StabilityGuard(recipe.stability, ranks)
    state = TrainState(engine, SyncStrategy(), average, guard)
    state.epochs_done = state.step = average.updates = 1
    checkpoints = CheckpointManager(run, state, plain, identity, ranks, keep=9)
    checkpoints.save()
    checkpoints.wait()
    whole = run.newest_checkpoint
    assert whole is not None
    checkpoints.load(whole)
    canary = folder / "canary"
    said = {}
    for damaged_file, name, damage in damages(whole, canary):
        copy = folder / "damaged"
        file = copy / damaged_file
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy, copy_function=os.link)
        file.unlink()
        shutil.copy(whole / file.name, file)
        damage(file)
        seal(file)
        assert verify(copy) is None
        try:
            checkpoints.load(copy)
            said[name] = "loaded"
        except CheckpointError as error:
            said[name] = f"CheckpointError: {error}"
        except BaseException as error:
            said[name] = f"{type(error).__name__}: {error}"
        if canary.exists():
            said[name] = "its code ran"
            canary.rmdir()
    return said


def seal(file: Path) -> None:
    """Its folder, anew; the other files are still what was written."""
    manifest = file.with_name(MANIFEST)
    digests = json.loads(manifest.read_text())
    if file.exists():
        digests[file.name] = digest_of(file)
    else:
        del digests[file.name]
    manifest.unlink()  # a link to that of the whole checkpoint
    manifest.write_text(json.dumps(digests))


def damages(whole: Path, canary: Path) -> Iterator[tuple[str, str, Callable[[Path], None]]]:
    """The name of a file, what is done to it in words, and what does it to such a file."""
    chance = Random(7)
    for file in (WEIGHTS, MOMENTS, AVERAGE, STATE, RANK_STATE.format(0)):
        size = (whole / file).stat().st_size
        yield file, f"{file} gone", Path.unlink
        for left in (0, 1, 7, size // 2, size - 1):
            yield file, f"{file} of {left} bytes", lambda f, n=left: os.truncate(f, n)
        yield file, f"{file} of noise", lambda f: f.write_bytes(chance.randbytes(9999))
        yield file, f"{file} a pickle", lambda f: f.write_bytes(pickle.dumps(Canary(canary)))
    for file in (WEIGHTS, MOMENTS, AVERAGE):
        names = sorted(load_file(whole / file))
        for name in chance.sample(names, 4):
            for what, change in TENSOR_CHANGES.items():
                yield file, f"{file}: {name} {what}", _changing(name, change)
    state = json.loads((whole / STATE).read_text())
    for place in places(state, _of_dicts):
        for value in chance.sample(JSON_VALUES, 2):
            yield STATE, f"{STATE}: {place} = {value}", _setting(place, value)
    rank = RANK_STATE.format(0)
    yield rank, f"{rank}: code", lambda f: torch.save({"kind": Canary(canary)}, f)
    for key in ("kind", "exchange", "statistics", "average_statistics", "random"):
        for value in (None, [], torch.zeros(3)):
            yield rank, f"{rank}: {key} = {value}", _replacing(key, value)


TENSOR_CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "gone": lambda tensor: None,
    "of another shape": lambda tensor: torch.zeros(3, 5, 7),
    "of NaN": lambda tensor: (
        torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else None
    ),
}


def _changing(
    name: str, change: Callable[[torch.Tensor], torch.Tensor | None]
) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        tensors = load_file(file)
        changed = change(tensors.pop(name))
        save_file(tensors | ({name: changed} if changed is not None else {}), file)

    return damage


def _replacing(key: str, value: Any) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        kept = torch.load(file, weights_only=True)
        torch.save(kept | {key: value}, file)

    return damage


def _setting(place: tuple[str, ...], value: Any) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        state = json.loads(file.read_text())
        file.write_text(json.dumps(with_value(state, place, value)))

    return damage


def _of_dicts(value: Any) -> Entries:
    return value.items() if isinstance(value, dict) else ()


report_each(load_damaged)
