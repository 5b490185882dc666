"""Checkpoints written and read by several numbers of ranks and ZeRO stages.

A case is a folder's name and overrides of the recipe. Where it is `name<-other`, what `other` wrote is loaded, saved
again and compared, and the same steps are taken as its writer took after it.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.workers.several import report_each
from yolo.communication.strategy import SyncStrategy
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.manager import AVERAGE, MOMENTS, WEIGHTS, CheckpointManager
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.checkpointing.train_state import TrainState
from yolo.training.engine.build import build_strategy, start_engine
from yolo.training.engine.distributed import DistributedContext, init_distributed
from yolo.training.engine.ema import ModelEMA
from yolo.training.resilience.anomaly_guard import StabilityGuard

GLOBAL_BATCH = 12
SETTINGS = [
    *(f"train.global_batch={GLOBAL_BATCH}", "train.micro_batch=1", "model.image_size=64"),
    *("precision.dtype=fp32", "train.ema_ramp_steps=2", "cluster.threads_per_process=1"),
]
STEPS_BEFORE, STEPS_AFTER = 1, 2
"""A checkpoint; and its writer and its readers step alike."""


def go_on(settings: list[str], folder: Path) -> dict[str, Any]:
    name, *overrides = settings
    written, _, read = name.partition("<-")
    ranks_started = int(os.environ["WORLD_SIZE"])
    recipe = prepare("recipes/demo.yaml", [*SETTINGS, *overrides], ranks_started).resolved.recipe
    ranks = init_distributed(recipe)
    run = RunDirectory(folder / written)
    if ranks.is_main:
        run.create()
    torch.distributed.barrier()
    torch.manual_seed(0)
    engine = start_engine(YOLOv5("n", 3), recipe, ranks)
    exchange: SyncStrategy = build_strategy(engine, recipe)
    exchange.plan(1, 10)
    average = ModelEMA(engine.module, recipe.train)
    plain = YOLOv5("n", 3).requires_grad_(False)
    identity = RunConfig({}, ["a", "b", "c"], 28, ranks.world_size)
    said = LoggedMessages()
    logging.getLogger("yolo").addHandler(said)
    logging.getLogger("yolo").setLevel(logging.INFO)
    state = TrainState(engine, exchange, average, StabilityGuard(recipe.stability, ranks))
    checkpoints = CheckpointManager(run, state, plain, identity, ranks, keep=9)
    done = 0
    if read:
        source = RunDirectory(folder / read).newest_checkpoint
        assert source is not None
        checkpoints.load(source)
        done = state.step
    else:
        done = STEPS_BEFORE
        steps(engine, exchange, average, ranks, range(STEPS_BEFORE))
    average.write_into(plain)
    state.epochs_done, state.step = 1, done
    checkpoints.save()
    checkpoints.wait()
    torch.distributed.barrier()
    losses = steps(engine, exchange, average, ranks, range(done, done + STEPS_AFTER))
    apart = differing(source, run.newest_checkpoint) if read else []
    return {"losses": losses, "apart": apart, "said": said.messages}


class LoggedMessages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def steps(
    engine: Any, exchange: SyncStrategy, average: ModelEMA, ranks: DistributedContext, which: range
) -> list[float]:
    """The global batch's loss at each of some steps, with the same images whatever the number of ranks."""
    share = GLOBAL_BATCH // ranks.world_size
    losses = []
    for step in which:
        images = torch.rand(GLOBAL_BATCH, 3, 64, 64, generator=torch.Generator().manual_seed(step))
        total = torch.zeros(())
        for image in images[ranks.rank * share :][:share]:
            loss = sum(output.float().square().mean() for output in engine(image[None]))
            engine.backward(loss)
            exchange.reduce_gradients()
            engine.step()
            total += loss.detach() / GLOBAL_BATCH
        exchange.after_step()
        average.update()
        torch.distributed.all_reduce(total)
        losses.append(float(total))
    return losses


def differing(one: Path, other: Path | None) -> list[str]:
    """The tensors that are not the same bits in two checkpoints; of BatchNorm's statistics, which are means, to rounding."""
    assert other is not None
    apart = []
    for file in (WEIGHTS, MOMENTS, AVERAGE):
        before, after = load_file(one / file), load_file(other / file)
        apart += [f"{file}: {key}" for key in before.keys() ^ after.keys()]
        apart += [
            f"{file}: {key}"
            for key in before.keys() & after.keys()
            if not _are_alike(key, before[key], after[key])
        ]
    counters = [
        json.loads((folder / "state.json").read_text())["counters"] for folder in (one, other)
    ]
    return apart + ([f"counters: {counters}"] if counters[0] != counters[1] else [])


def _are_alike(name: str, one: torch.Tensor, other: torch.Tensor) -> bool:
    if name.endswith(("running_mean", "running_var")):
        return torch.allclose(one, other, rtol=1e-6, atol=1e-7)
    return torch.equal(one, other)


report_each(go_on)
