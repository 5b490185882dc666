"""One optimizer step: what training runs, and what calibration, benchmarks and tests time and compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import deepspeed.comm as dist
import torch

from yolo.data.loader.samples import TrainingBatch, to_network
from yolo.model.loss import Assignment, DetectionLoss, Normaliser
from yolo.recipe.schema.recipe import Recipe
from yolo.training.checkpointing.train_state import TrainState
from yolo.training.engine.batchnorm import BatchNormSnapshot
from yolo.training.engine.build import limit_gradient_norm
from yolo.training.engine.distributed import DistributedContext
from yolo.training.loop.auto_precision import TORCH_DTYPES
from yolo.training.loop.lr_schedule import LRSchedule
from yolo.training.loop.multi_scale import ImageSizes, scaled


class StepPart(StrEnum):
    """The parts of a step, in order; each micro batch passes through all of them."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"
    """Reducing gradients and, at the end of the accumulation, updating weights."""


class StepObserver(Protocol):
    """Learns which part of a step begins: the heartbeat in training, a stopwatch in benchmarks."""

    def begin(self, part: StepPart, step: int) -> None:
        """`step` counts from 1."""


class Outcome(StrEnum):
    """What a step did to the weights."""

    APPLIED = "applied"
    SKIPPED = "skipped"
    """The gradient was not finite or a spike, on all ranks alike; with local steps, on this rank."""
    SKIPPED_LOCALLY = "skipped locally"
    """The other ranks' gradients were applied; this rank's was not finite."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step was like, as this rank sees it."""

    step: int
    """Counted from 1."""
    lr: float
    losses: torch.Tensor
    """(3,) this rank's share of the loss parts box, obj and cls; on the device."""
    outcome: Outcome
    is_local: bool
    """Whether the step used this rank's gradients only (local SGD, 0/1 Adam)."""


class TrainStep:
    """Takes optimizer steps on one rank; collective."""

    def __init__(
        self,
        state: TrainState,
        loss: DetectionLoss,
        schedule: LRSchedule,
        recipe: Recipe,
        context: DistributedContext,
        observer: StepObserver,
        wants_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`wants_to_stop` is asked once per step; all ranks learn of it (`StabilityGuard.should_stop`)."""
        self.state = state
        self.loss = loss
        self.schedule = schedule
        self.context = context
        self.observer = observer
        self.wants_to_stop = wants_to_stop
        self.sizes = ImageSizes(recipe, loss.strides[-1] * context.columns.count)
        self.dtype = TORCH_DTYPES[recipe.precision.dtype]
        self.global_batch = recipe.train.global_batch
        self.batchnorm = BatchNormSnapshot(state.engine.module)

    def __call__(self, batch: Sequence[TrainingBatch]) -> StepResult:
        """Take one step on this rank's micro batches."""
        state, device, step = self.state, self.context.device, self.state.step + 1
        engine, strategy, guard = state.engine, state.strategy, state.guard
        lr_factor = guard.lr_factor(state.step)
        rates = self.schedule.apply(engine.optimizer.param_groups, state.step, lr_factor)
        size = self.sizes.at(state.step)
        is_local = strategy.is_local_step
        # Assigned on the CPU: on a GPU, the host would have to wait for the device.
        targets = [self._assign(micro_batch, size) for micro_batch in batch]
        matches, counting = self._count_matches(targets, is_local)  # sent while the forward runs
        limit_gradient_norm(engine, guard.norms.limit)
        self.batchnorm.save()
        losses = torch.zeros(3, device=device)
        for micro_batch, target in zip(batch, targets, strict=True):
            self.observer.begin(StepPart.FORWARD, step)
            images = to_network(micro_batch.images, device, self.dtype)
            predictions = engine(self.context.columns.stripe(scaled(images, size)))
            if counting is not None:
                counting.wait()
                counting = None
            target = target.to(device, non_blocking=True)
            loss, parts = self.loss(predictions, target, self._normaliser(matches))
            losses += parts
            if micro_batch is batch[-1]:  # 1.0, or NaN: then every rank skips the step
                loss = loss * guard.nan_gate(losses.sum(), self.wants_to_stop(), is_local)
            self.observer.begin(StepPart.BACKWARD, step)
            engine.backward(loss)
            self.observer.begin(StepPart.UPDATE, step)
            if is_local and micro_batch is batch[-1]:  # its images' gradient, of all their columns
                self.context.columns.average_gradients(engine.module)
            strategy.reduce_gradients()
            engine.step()  # DeepSpeed clips, updates and zeroes at the end of the accumulation
        strategy.after_step()
        outcome = self._outcome()
        if outcome is not Outcome.APPLIED:
            self.batchnorm.restore()  # the non-finite values passed through it too
        state.step = step
        return StepResult(step, rates.lr, losses, outcome, is_local)

    def _assign(self, micro_batch: TrainingBatch, size: int) -> Assignment:
        """The targets of the columns that this rank computes."""
        columns = self.context.columns
        shape = (len(micro_batch.images), 3, size, size)
        return self.loss.assign(micro_batch.targets, shape).stripe(columns.index, columns.count)

    def _count_matches(
        self, targets: Sequence[Assignment], is_local: bool
    ) -> tuple[torch.Tensor, Any]:
        """Matched boxes per level (3,) in the global batch, and the all-reduce under way that sums them.

        In a local step, the other ranks' images are assumed to hold as many boxes as this rank's.
        """
        matches = torch.stack([target.matches for target in targets]).sum(0)
        matches = matches.to(self.context.device, torch.float32, non_blocking=True)
        if is_local or self.context.world_size == 1:
            return self.context.columns.sum(matches) * self.context.data_ranks, None
        return matches, dist.all_reduce(matches, async_op=True)

    def _normaliser(self, matches: torch.Tensor) -> Normaliser:
        shards = self.context.world_size * self.state.engine.gradient_accumulation_steps()
        return Normaliser(matches=matches, images=self.global_batch, shards=shards)

    def _outcome(self) -> Outcome:
        if not self.state.skipped_steps.was_step_applied():
            return Outcome.SKIPPED
        is_included = self.state.strategy.has_gradient
        return Outcome.APPLIED if is_included else Outcome.SKIPPED_LOCALLY
