"""The training loop."""

from collections.abc import Iterator, Sequence
from typing import Any

import deepspeed.comm as dist
import torch

from yolo.communication.consistency import check_replicas_equal
from yolo.communication.strategy import SyncStrategy
from yolo.data.loader.samples import TrainingBatch, to_network
from yolo.model.loss import Assignment, DetectionLoss, Normaliser
from yolo.training.engine.build import SkippedStepDetector, limit_gradient_norm
from yolo.training.engine.distributed import DistributedContext
from yolo.training.loop.ema import ModelEMA, statistics
from yolo.training.loop.lr_schedule import LRSchedule
from yolo.training.loop.metrics import MetricsAccumulator, StepMetrics
from yolo.training.loop.multi_scale import ImageSizes, scaled
from yolo.training.resilience.anomaly_guard import Anomaly, StabilityGuard
from yolo.training.resilience.heartbeat import HeartbeatMonitor
from yolo.training.resilience.preemption import PreemptionHandler
from yolo.training.resilience.rollback import Rollback


class Loop:
    """The steps of a run, on one rank."""

    def __init__(
        self,
        engine: Any,
        exchange: SyncStrategy,
        criterion: DetectionLoss,
        schedule: LRSchedule,
        average: ModelEMA,
        recorder: MetricsAccumulator,
        guard: StabilityGuard,
        recovery: Rollback,
        leave: PreemptionHandler,
        standings: HeartbeatMonitor,
        ranks: DistributedContext,
        sizes: ImageSizes,
        dtype: torch.dtype,
        log_every_steps: int,
        check_weights_every: int,
        save_every_steps: int,
    ) -> None:
        self.engine = engine
        self.exchange = exchange
        self.criterion = criterion
        self.schedule = schedule
        self.average = average
        self.recorder = recorder
        self.guard = guard
        self.recovery = recovery
        self.leave = leave
        self.standings = standings
        self.ranks = ranks
        self.sizes = sizes
        self.dtype = dtype
        self.log_every_steps = log_every_steps
        self.check_weights_every = check_weights_every
        self.save_every_steps = save_every_steps
        self.overflows = SkippedStepDetector(engine)
        self.step = 0
        """Optimizer steps taken, those before a resume included."""
        self._unaveraged = 0
        """Of them, those that the average has not taken in: it waits until all ranks have the same weights."""
        self._is_check_due = False
        self._is_save_due = False
        self._suspects: tuple[int, Sequence[TrainingBatch]] = (0, ())
        """The newest step that may be to blame, and its images."""
        self._statistics = statistics(engine.module)
        self._statistics_before = [each.clone() for each in self._statistics]

    @property
    def must_save(self) -> bool:
        """Whether a checkpoint is due, at once and not at the epoch's end, and ranks have the same weights."""
        return (self._is_save_due or self.guard.should_stop) and self.exchange.steps_since_sync == 0

    def has_saved(self) -> None:
        """A checkpoint was written after the newest step."""
        self._is_save_due = False

    def epoch(
        self, first_step: int, steps: Iterator[Sequence[TrainingBatch]]
    ) -> Iterator[StepMetrics]:
        """Train one epoch, or what is left of it; yields a log every `log_every_steps` steps and at the epoch's end.

        A log comes also where `must_save` has become true.

        Raises TrainingDiverged on all ranks alike.
        """
        self.step = first_step
        self.engine.train()
        while True:
            self.recorder.step_begins()
            number = self.step + 1
            self.standings.set_phase(f"waiting for the images of step {number}")
            micro_batches = next(steps, None)  # the images of one optimizer step
            if micro_batches is None:
                break
            self.recorder.images_arrived()
            factor = self.guard.lr_factor(self.step)
            rates = self.schedule.apply(self.engine.optimizer.param_groups, self.step, factor)
            size = self.sizes.at(self.step)
            # Boxes find their cells on the processor: on a GPU it would have to wait for the device.
            assignments = [
                self.criterion.assign(batch.targets, (len(batch.images), 3, size, size))
                for batch in micro_batches
            ]
            # The sum over the ranks travels while the network computes.
            is_alone = self.exchange.is_local_step
            matches, exchange = self._count_matches(assignments, is_alone)
            limit_gradient_norm(self.engine, self.guard.norms.limit)
            torch._foreach_copy_(self._statistics_before, self._statistics)
            found = torch.zeros(3, device=self.ranks.device)  # this rank's share of the loss
            for batch, assignment in zip(micro_batches, assignments, strict=True):
                self.standings.set_phase(f"computing step {number}")
                images = to_network(batch.images, self.ranks.device, self.dtype)
                predictions = self.engine(scaled(images, size))
                if exchange is not None:
                    exchange.wait()
                    exchange = None
                assignment = assignment.to(self.ranks.device, non_blocking=True)
                loss, parts = self.criterion(predictions, assignment, self._normaliser(matches))
                found += parts.stacked()
                if batch is micro_batches[-1]:
                    loss = loss * self.guard.nan_gate(found.sum(), self.leave.is_asked, is_alone)
                self.engine.backward(loss)
                self.standings.set_phase(f"exchanging gradients of step {number}", waits=True)
                self.exchange.reduce_gradients()
                self.engine.step()
            self.exchange.after_step()
            was_applied = self.overflows.was_step_applied()
            had_part = was_applied and self.exchange.has_gradient
            if not had_part:  # whatever was not finite went through BatchNorm too
                torch._foreach_copy_(self._statistics, self._statistics_before)
            # Whether a rank's own step was applied the others do not know, and averages must stay the same on all.
            self._take_into_average(int(was_applied or is_alone))
            self.step = number
            self.recorder.step_ended(found if had_part else None)
            if not had_part:
                self._suspects = number, micro_batches
            self._look_after(micro_batches, was_applied, had_part, is_alone)
            if self.check_weights_every and self.step % self.check_weights_every == 0:
                self._is_check_due = True
            if self._is_check_due and self.exchange.steps_since_sync == 0:
                self.check_replicas_equal()
            if self.save_every_steps and self.step % self.save_every_steps == 0:
                self._is_save_due = True
            if self.step % self.log_every_steps == 0 or self.must_save:
                yield self._log(rates.lr)
        self.recorder.step_begins()
        must_meet = self.exchange.steps_since_sync > 0
        if must_meet:
            self.standings.set_phase(f"coming together after step {self.step}", waits=True)
            self.exchange.flush()
        self.recorder.epoch_settled()
        self._take_into_average(0)
        if must_meet:
            self._meet()
        if self.recorder.has_steps:
            yield self._log(rates.lr)

    def _look_after(
        self,
        micro_batches: Sequence[TrainingBatch],
        was_applied: bool,
        had_part: bool,
        is_alone: bool,
    ) -> None:
        """What the step just made was like, whether to go back, whether somebody wants to leave; the same on all ranks."""
        is_mean = self.exchange.averages_gradients and not is_alone
        norm = None if not is_mean else self.engine.get_global_grad_norm()
        faults = self.guard.observe(
            self.step,
            was_applied,
            had_part,
            None if norm is None else float(norm),
            is_alone,
            self.overflows.is_scale_falling,
        )
        if any(fault.was_taken for fault in faults):
            self._suspects = self.step, micro_batches
        if is_alone and self.exchange.steps_since_sync == 0:
            self._meet()
        else:
            self._answer(faults)

    def _meet(self) -> None:
        """Ranks that stepped alone are together again."""
        self.standings.set_phase(f"adding up what ranks found until step {self.step}", waits=True)
        self._answer(self.guard.sync(self.step, self.leave.is_asked, self.ranks.device))

    def _answer(self, faults: list[Anomaly]) -> None:
        for fault in faults:
            self.recovery.note(self.step, fault)
        if faults and self.guard.must_roll_back:
            self.recovery.roll_back(self.step, *self._suspects)
            self._unaveraged = 0
            self.overflows = SkippedStepDetector(self.engine)  # the loss scale is another

    def check_replicas_equal(self) -> None:
        """Raise RanksDiverged where ranks that should have the same weights do not; to be asked when none is behind."""
        self.standings.set_phase(f"comparing weights after step {self.step}", waits=True)
        check_replicas_equal(self.engine.module, f"step {self.step}")
        self._is_check_due = False

    def _take_into_average(self, steps: int) -> None:
        self._unaveraged += steps
        if self._unaveraged and self.exchange.steps_since_sync == 0:
            self.average.update(self._unaveraged)
            self._unaveraged = 0

    def _count_matches(
        self, assignments: Sequence[Assignment], is_alone: bool
    ) -> tuple[torch.Tensor, Any]:
        """Matched boxes per level (3,) in the step's whole global batch, and the collective that adds them up.

        A rank that steps alone takes the others' images for as full as its own.
        """
        matches = torch.stack([assignment.matches for assignment in assignments]).sum(0)
        matches = matches.to(self.ranks.device, torch.float32, non_blocking=True)
        if is_alone or self.ranks.world_size == 1:
            return matches * self.ranks.world_size, None
        return matches, dist.all_reduce(matches, async_op=True)

    def _normaliser(self, matches: torch.Tensor) -> Normaliser:
        accumulation = self.engine.gradient_accumulation_steps()
        return Normaliser(
            matches=matches,
            images=self.recorder.global_batch,
            shards=self.ranks.world_size * accumulation,
        )

    def _log(self, lr: float) -> StepMetrics:
        step = self.step
        self.standings.set_phase(f"adding up the figures of step {step}", waits=True)
        norm = self.engine.get_global_grad_norm()
        return self.recorder.log(step, step / self.schedule.steps_per_epoch, lr, norm)
