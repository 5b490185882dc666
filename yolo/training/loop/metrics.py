"""Losses and costs of training steps: summed on each rank, then averaged over the ranks, for the log and the summary."""

import math
import time

import deepspeed.comm as dist
import torch

from yolo.communication.metering.meter import TrafficMeter
from yolo.tracking.records import StepMetrics
from yolo.training.checkpointing.train_state import StepTotals
from yolo.training.engine.distributed import DistributedContext


class MetricsAccumulator:
    """Sums up the steps of one rank; every `log_every_steps`, one small all-reduce averages them over the ranks."""

    def __init__(
        self, meter: TrafficMeter, context: DistributedContext, global_batch: int, total: StepTotals
    ) -> None:
        """`total`: the whole run, also before a resume; seconds and bytes are means over the ranks, by kind the main rank's."""
        self.meter = meter
        self.context = context
        self.global_batch = global_batch
        self.total = total
        self._totals = StepTotals()
        """Since the last log."""
        self._losses = torch.zeros(3, device=context.device)
        self._started = 0.0

    def start_step(self) -> None:
        """Start the clock of a step, before its images are requested."""
        self._started = time.perf_counter()

    def batch_ready(self) -> None:
        """The step's images have arrived."""
        self._totals.data_wait_seconds += time.perf_counter() - self._started

    def end_step(self, losses: torch.Tensor | None) -> None:
        """Stop the step's clock; `losses` (3,) are this rank's share of the loss parts, None if the step was skipped."""
        if losses is None:
            self._totals.skipped += 1
        else:
            self._losses += losses  # on the device, so nothing waits
        self._totals.steps += 1
        self._totals.images += self.global_batch
        self._totals.seconds += time.perf_counter() - self._started

    def end_epoch(self) -> None:
        """Count what the ranks exchanged at an epoch's end among its steps, logged or not."""
        flush = StepTotals(seconds=time.perf_counter() - self._started, traffic=self.meter.take())
        (self._totals if self.has_steps else self.total).add(flush)

    def discard_traffic(self) -> None:
        """Discard what was sent since the last log: it was not training."""
        self.meter.take()

    @property
    def has_steps(self) -> bool:
        """Whether there are steps to log."""
        return self._totals.steps > 0

    def log(
        self, step: int, epoch: float, lr: float, gradient_norm: torch.Tensor | float | None
    ) -> StepMetrics:
        """The mean over the steps since the last call; collective."""
        totals, self._totals = self._totals, StepTotals()
        started = time.perf_counter()
        losses = self._losses.tolist()  # waits for the device, which a GPU's steps did not
        self._losses.zero_()
        totals.seconds += time.perf_counter() - started
        totals.traffic.add(self.meter.take())
        box, obj, cls = self._add_over_ranks(losses, totals)
        self.total.add(totals)
        applied = totals.steps - totals.skipped or math.nan
        return StepMetrics(
            step=step,
            epoch=epoch,
            skipped=totals.skipped,
            # Each rank's parts are its share of the global batch's: their sum over the ranks is the loss.
            loss_box=box / applied,
            loss_obj=obj / applied,
            loss_cls=cls / applied,
            lr=lr,
            gradient_norm=None if gradient_norm is None else float(gradient_norm),
            costs=totals.mean(),
        )

    def _add_over_ranks(
        self, losses: list[float], totals: StepTotals
    ) -> tuple[float, float, float]:
        """Sum the loss parts over the ranks; seconds and bytes of the totals become means over them."""
        traffic = totals.traffic
        costs = [
            *(totals.seconds, totals.data_wait_seconds, totals.skipped),
            *(traffic.seconds, traffic.exposed_seconds, traffic.payload_bytes, traffic.wire_bytes),
        ]
        sums = torch.tensor([*losses, *costs], dtype=torch.float64, device=self.context.device)
        if self.context.world_size > 1:
            dist.all_reduce(sums)
            self.meter.take()  # the log's own few bytes are not the training's
        box, obj, cls, *costs = sums.tolist()
        means = [cost / self.context.world_size for cost in costs]
        totals.seconds, totals.data_wait_seconds, totals.skipped = means[:3]
        traffic.seconds, traffic.exposed_seconds = means[3:5]
        traffic.payload_bytes, traffic.wire_bytes = means[5:]
        return box, obj, cls
