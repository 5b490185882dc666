"""Steps of one engine, some of which overflow: which are taken, how long they are, and what a checkpoint keeps.

The first step is of an ordinary loss, the next two of an infinite one, the fourth is ordinary again. SGD without momentum or decay at lr 1 shows a step's length as the weights' change.
"""

import math
from pathlib import Path
from typing import Any
from unittest import mock

import deepspeed.comm as dist
import torch

import yolo.training.engine.build
from tests.workers.several import report_each
from yolo.communication.strategy import SyncStrategy
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.manager import CheckpointManager
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.checkpointing.train_state import TrainState
from yolo.training.engine.build import SkippedStepDetector, loss_scale, start_engine
from yolo.training.engine.distributed import init_distributed
from yolo.training.engine.ema import ModelEMA
from yolo.training.resilience.anomaly_guard import StabilityGuard

AS_DEEPSPEED_DOES = "as_deepspeed_does"
"""Among a case's settings: without what this repo does about a loss scale."""
SETTINGS = [
    *("optimizer.type=SGD", "optimizer.lr=1.0", "optimizer.momentum=0.0"),
    *("optimizer.nesterov=false", "optimizer.weight_decay=0.0", "train.gradient_clipping=0.01"),
    *("train.global_batch=4", "model.image_size=64", "train.ema=false"),
]


def overflow_twice(settings: list[str], folder: Path) -> dict[str, Any]:
    """`folder`: for its checkpoint."""
    if AS_DEEPSPEED_DOES in settings:
        others = [setting for setting in settings if setting != AS_DEEPSPEED_DOES]
        with mock.patch.object(yolo.training.engine.build, "_scale_the_loss_within"):
            return overflow_twice(others, folder / AS_DEEPSPEED_DOES)
    recipe = prepare("recipes/demo.yaml", [*SETTINGS, *settings], 2).resolved.recipe
    ranks = init_distributed(recipe)
    run = RunDirectory(folder / "-".join(settings))
    if ranks.is_main:
        run.create()

    def start():
        torch.manual_seed(0)
        return start_engine(YOLOv5("n", 3), recipe, ranks)

    engine = start()
    watch = SkippedStepDetector(engine)
    average = ModelEMA(engine.module, recipe.train)
    plain = YOLOv5("n", 3).requires_grad_(False)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(ranks.rank))
    scale_at_start = scale_of(engine)
    lengths, applied, norms = [], [], []
    before = flat(average, plain)
    for size in (1e-3, math.inf, math.inf, 1e-3):
        loss = size * sum(output.float().square().mean() for output in engine(images))
        engine.backward(loss)
        engine.step()
        applied.append(watch.was_step_applied())
        norms.append(float(engine.get_global_grad_norm()))
        average.update()
        after = flat(average, plain)
        lengths.append(float((after - before).norm()))
        before = after
    average.write_into(plain)
    identity = RunConfig({}, ["a", "b", "c"], 28, ranks.world_size)

    def checkpoints(engine, average: ModelEMA) -> CheckpointManager:
        state = TrainState(engine, SyncStrategy(), average, StabilityGuard(recipe.stability, ranks))
        return CheckpointManager(run, state, plain, identity, ranks, keep=1)

    written = checkpoints(engine, average)
    written.state.epochs_done = 1
    written.save()
    written.wait()
    dist.barrier()
    scale = scale_of(engine)
    other = start()
    checkpoints(other, ModelEMA(other.module, recipe.train)).load(run.newest_checkpoint)
    return {
        "applied": applied,
        "lengths": lengths,
        "norms": norms,
        "scale_at_start": scale_at_start,
        "scale": scale,
        "scale_after_resume": scale_of(other),
    }


def scale_of(engine) -> float:
    as_deepspeed_does = getattr(engine.optimizer, "torch_autocast_gradscaler", None)
    return as_deepspeed_does.get_scale() if as_deepspeed_does else loss_scale(engine)


def flat(average: ModelEMA, plain: YOLOv5) -> torch.Tensor:
    average.write_into(plain)
    return torch.cat([parameter.reshape(-1) for parameter in plain.parameters()]).clone()


report_each(overflow_twice)
