"""Training steps of four ranks under each mesh of data and columns: what is learnt from the same global batches.

Each argument is a case, overrides separated by spaces.
"""

from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from tests.workers.several import report_each
from yolo.calibration.strategies import Strategy
from yolo.calibration.synthetic_step import SyntheticTraining, TimingJob, synthetic_batch
from yolo.communication.consistency import check_replicas_equal
from yolo.data.loader.samples import TrainingBatch
from yolo.recipe import prepare
from yolo.training.engine.distributed import DistributedContext, init_distributed

BATCH, SIZE, CLASSES, STEPS = 4, 256, 3, 4
SETTINGS = (
    *("optimizer.type=SGD", "optimizer.lr=0.01", "train.warmup_epochs=0", "precision.dtype=fp32"),
    *(f"train.global_batch={BATCH}", f"model.image_size={SIZE}", "train.ema=false"),
)
movements: dict[str, torch.Tensor] = {}
"""Of all weights from their start, by case."""


def share_of(batch: TrainingBatch, context: DistributedContext, micro: int) -> list[TrainingBatch]:
    """The micro batches of this rank's images."""
    first = context.data_rank * BATCH // context.data_ranks
    shares = []
    for start in range(first, first + BATCH // context.data_ranks, micro):
        owner = batch.targets[:, 0]
        own = batch.targets[(owner >= start) & (owner < start + micro)].clone()
        own[:, 0] -= start
        shares.append(TrainingBatch(batch.images[start : start + micro], own))
    return shares


def steps(overrides: list[str], _: Path) -> dict[str, Any]:
    prepared = prepare("recipes/demo.yaml", [*SETTINGS, *overrides], 4)
    context = init_distributed(prepared.resolved.recipe)
    training = SyntheticTraining(
        Strategy("as written", "as written"), TimingJob(prepared, CLASSES), context
    )
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    losses = []
    for step in range(STEPS):
        batch = synthetic_batch(BATCH, SIZE, 4, CLASSES, seed=40 + step)
        micro = training.recipe.train.micro_batch
        result = training.train_step(share_of(batch, context, micro))
        dist.all_reduce(result.losses)
        losses.append(result.losses.sum().item())
    training.state.strategy.flush()
    if training.recipe.zero.stage < 3:
        check_replicas_equal(training.model, "the end")
    moved = torch.cat(
        [
            (p.detach() - b).flatten()
            for p, b in zip(training.model.parameters(), before, strict=True)
        ]
    )
    movements[" ".join(overrides)] = moved
    apart = {
        case: float((moved - other).norm() / other.norm()) for case, other in movements.items()
    }
    return {"losses": losses, "apart": apart}


report_each(steps)
