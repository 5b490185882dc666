"""The training loop."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import deepspeed.comm as dist
import torch

from yolo.communication.agreement import check_agreement
from yolo.communication.exchange import Exchange
from yolo.data.samples import TrainingBatch, to_network
from yolo.errors import YoloError
from yolo.model.loss import Assignment, DetectionLoss, Normaliser
from yolo.training.averaging import WeightAverage
from yolo.training.engine import OverflowWatch
from yolo.training.multi_scale import ImageSizes, scaled
from yolo.training.ranks import Ranks
from yolo.training.recorder import Recorder, StepLog
from yolo.training.schedule import Schedule

MAX_SKIPPED_STEPS = 40
"""In a row, because their gradients are not finite; fp16 needs 17 at most until its loss scale is down from 65536 to 1."""


class TrainingDiverged(YoloError):
    """The loss, or every gradient, is no number any more."""


class Loop:
    """The steps of a run, on one rank."""

    def __init__(
        self,
        engine: Any,
        exchange: Exchange,
        criterion: DetectionLoss,
        schedule: Schedule,
        average: WeightAverage,
        recorder: Recorder,
        ranks: Ranks,
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
        self.ranks = ranks
        self.sizes = sizes
        self.dtype = dtype
        self.log_every_steps = log_every_steps
        self.check_weights_every = check_weights_every
        self.save_every_steps = save_every_steps
        self.overflows = OverflowWatch(engine)
        self.step = 0
        """Optimizer steps taken, those before a resume included."""
        self._unaveraged = 0
        """Of them, those that the average has not taken in: it waits until all ranks have the same weights."""
        self._is_check_due = False
        self._is_save_due = False

    @property
    def must_save(self) -> bool:
        """Whether a checkpoint within the epoch is due and ranks have the same weights; told by `has_saved`."""
        return self._is_save_due and self.exchange.steps_behind == 0

    def has_saved(self) -> None:
        """A checkpoint was written after the newest step."""
        self._is_save_due = False

    def epoch(self, first_step: int, steps: Iterator[Sequence[TrainingBatch]]) -> Iterator[StepLog]:
        """Train one epoch, or what is left of it; yields a log every `log_every_steps` steps and at the epoch's end.

        A log comes also where `must_save` has become true.

        Raises TrainingDiverged on all ranks alike.
        """
        self.step = first_step
        self.engine.train()
        while True:
            self.recorder.step_begins()
            micro_batches = next(steps, None)  # the images of one optimizer step
            if micro_batches is None:
                break
            self.recorder.images_arrived()
            rates = self.schedule.apply(self.engine.optimizer.param_groups, self.step)
            size = self.sizes.at(self.step)
            # Boxes find their cells on the processor: on a GPU it would have to wait for the device.
            assignments = [
                self.criterion.assign(batch.targets, (len(batch.images), 3, size, size))
                for batch in micro_batches
            ]
            # The sum over the ranks travels while the network computes.
            is_alone = self.exchange.steps_alone
            matches, exchange = self._count_matches(assignments, is_alone)
            for batch, assignment in zip(micro_batches, assignments, strict=True):
                images = to_network(batch.images, self.ranks.device, self.dtype)
                predictions = self.engine(scaled(images, size))
                if exchange is not None:
                    exchange.wait()
                    exchange = None
                assignment = assignment.to(self.ranks.device, non_blocking=True)
                loss, parts = self.criterion(predictions, assignment, self._normaliser(matches))
                self.engine.backward(loss)
                self.exchange.finish_gradients()
                self.engine.step()
                self.recorder.add_losses(parts.stacked())
            self.exchange.step_taken()
            was_applied = self.overflows.was_step_applied()
            # Whether a rank's own step was applied the others do not know, and averages must stay the same on all.
            self._take_into_average(int(was_applied or is_alone))
            if self.overflows.skipped_in_a_row > MAX_SKIPPED_STEPS and not is_alone:
                raise TrainingDiverged(
                    f"step {self.step + 1}: none of the last {MAX_SKIPPED_STEPS} steps could be taken, because their "
                    f"gradients were not finite; {_what_to_do(rates.lr)}"
                )
            self.step += 1
            self.recorder.step_ended()
            if self.check_weights_every and self.step % self.check_weights_every == 0:
                self._is_check_due = True
            if self._is_check_due and self.exchange.steps_behind == 0:
                self.check_agreement()
            if self.save_every_steps and self.step % self.save_every_steps == 0:
                self._is_save_due = True
            if self.step % self.log_every_steps == 0 or self.must_save:
                yield self._log(rates.lr)
        self.recorder.step_begins()
        self.exchange.settle()
        self.recorder.epoch_settled()
        self._take_into_average(0)
        if self.recorder.has_steps:
            yield self._log(rates.lr)

    def check_agreement(self) -> None:
        """Raise RanksDiverged where ranks that should have the same weights do not; to be asked when none is behind."""
        check_agreement(self.engine.module, f"step {self.step}")
        self._is_check_due = False

    def _take_into_average(self, steps: int) -> None:
        self._unaveraged += steps
        if self._unaveraged and self.exchange.steps_behind == 0:
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

    def _log(self, lr: float) -> StepLog:
        step = self.step
        norm = self.engine.get_global_grad_norm()
        log = self.recorder.log(step, step / self.schedule.steps_per_epoch, lr, norm)
        if not math.isfinite(log.loss):
            raise TrainingDiverged(
                f"step {step}: the loss is {log.loss_box:g} (box) + {log.loss_obj:g} (objectness) + "
                f"{log.loss_cls:g} (class), no number any more; {_what_to_do(lr)}"
            )
        return log


def _what_to_do(lr: float) -> str:
    return f"lower optimizer.lr (now {lr:g}) or lengthen train.warmup_epochs. Checkpoints taken before are whole"
