"""What the steps of a run cost and lost: added up on each rank, then over the ranks, for the log and the summary."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import deepspeed.comm as dist
import torch

from yolo.communication.metering.meter import KindTraffic, Traffic, TrafficMeter
from yolo.training.engine.distributed import DistributedContext


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The mean over some steps, of the whole global batch and all ranks."""

    step: int
    epoch: float
    skipped: float
    """Of the steps since the last log, how many changed no weight; the losses are of the others, NaN where there are none."""
    loss_box: float
    loss_obj: float
    loss_cls: float
    lr: float
    gradient_norm: float | None
    images_per_second: float
    data_wait_seconds: float
    """A step's wait for images, mean over the ranks."""
    communication_seconds: float
    """From the starts of a step's collectives to their ends, mean over the ranks."""
    exposed_communication_seconds: float
    """A step's wait for collectives, mean over the ranks: what computing did not hide."""
    payload_bytes: float
    """Handed to collectives by a rank in a step."""
    wire_bytes: float
    """Sent by a rank in a step; as many are received."""
    traffic_by_kind: Mapping[str, KindTraffic]
    """The first rank's, a step."""

    @property
    def loss(self) -> float:
        """The three parts together."""
        return self.loss_box + self.loss_obj + self.loss_cls


@dataclass(slots=True)
class StepTotals:
    """Some training steps; evaluations and checkpoints are not in it."""

    steps: int = 0
    skipped: float = 0
    """Of them, those that changed no weight; as a mean over the ranks."""
    images: int = 0
    seconds: float = 0.0
    data_wait_seconds: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    def add(self, other: "StepTotals") -> None:
        """Add other steps to these."""
        self.steps += other.steps
        self.skipped += other.skipped
        self.images += other.images
        self.seconds += other.seconds
        self.data_wait_seconds += other.data_wait_seconds
        self.traffic.add(other.traffic)


class MetricsAccumulator:
    """Collects the steps of one rank; every `log_every_steps` the ranks add theirs up in one small all-reduce."""

    def __init__(self, meter: TrafficMeter, ranks: DistributedContext, global_batch: int) -> None:
        self.meter = meter
        self.ranks = ranks
        self.global_batch = global_batch
        self.total = StepTotals()
        """The whole run, also before a resume; seconds and bytes as means over the ranks, by kind the first rank's."""
        self._span = StepTotals()
        self._losses = torch.zeros(3, device=ranks.device)
        self._started = 0.0

    def step_begins(self) -> None:
        """Start the clock of a step, before its images are asked for."""
        self._started = time.perf_counter()

    def images_arrived(self) -> None:
        """The step's images are here."""
        self._span.data_wait_seconds += time.perf_counter() - self._started

    def step_ended(self, losses: torch.Tensor | None) -> None:
        """Stop the step's clock; `losses` (3,) are this rank's share of the loss parts, None where it was left out."""
        if losses is None:
            self._span.skipped += 1
        else:
            self._losses += losses  # on the device, so nothing waits
        self._span.steps += 1
        self._span.images += self.global_batch
        self._span.seconds += time.perf_counter() - self._started

    def epoch_settled(self) -> None:
        """What the ranks still had to exchange at an epoch's end belongs to its steps, logged or not."""
        settling = StepTotals(
            seconds=time.perf_counter() - self._started, traffic=self.meter.take()
        )
        (self._span if self.has_steps else self.total).add(settling)

    @property
    def has_steps(self) -> bool:
        """Whether there is anything to log since the last time."""
        return self._span.steps > 0

    def log(
        self, step: int, epoch: float, lr: float, gradient_norm: torch.Tensor | float | None
    ) -> StepMetrics:
        """The mean over the steps since the last call; collective."""
        span, self._span = self._span, StepTotals()
        started = time.perf_counter()
        losses = self._losses.tolist()  # waits for the device, which a GPU's steps did not
        self._losses.zero_()
        span.seconds += time.perf_counter() - started
        span.traffic.add(self.meter.take())
        box, obj, cls = self._add_over_ranks(losses, span)
        self.total.add(span)
        taken = span.steps - span.skipped or math.nan
        return StepMetrics(
            step=step,
            epoch=epoch,
            skipped=span.skipped,
            # Each rank's parts are its share of the global batch's: their sum over the ranks is the loss.
            loss_box=box / taken,
            loss_obj=obj / taken,
            loss_cls=cls / taken,
            lr=lr,
            gradient_norm=None if gradient_norm is None else float(gradient_norm),
            images_per_second=span.images / span.seconds,
            data_wait_seconds=span.data_wait_seconds / span.steps,
            communication_seconds=span.traffic.seconds / span.steps,
            exposed_communication_seconds=span.traffic.exposed_seconds / span.steps,
            payload_bytes=span.traffic.payload_bytes / span.steps,
            wire_bytes=span.traffic.wire_bytes / span.steps,
            traffic_by_kind=span.traffic.by_kind_per(span.steps),
        )

    def _add_over_ranks(self, losses: list[float], span: StepTotals) -> tuple[float, float, float]:
        """The loss parts' sums over the ranks; the span's seconds and bytes in all become means over them."""
        traffic = span.traffic
        costs = [
            *(span.seconds, span.data_wait_seconds, traffic.seconds, traffic.exposed_seconds),
            *(traffic.payload_bytes, traffic.wire_bytes, span.skipped),
        ]
        sums = torch.tensor([*losses, *costs], dtype=torch.float64, device=self.ranks.device)
        if self.ranks.world_size > 1:
            dist.all_reduce(sums)
            self.meter.take()  # the log's own few bytes are not the training's
        box, obj, cls, *costs = sums.tolist()
        means = [cost / self.ranks.world_size for cost in costs]
        span.seconds, span.data_wait_seconds, traffic.seconds, traffic.exposed_seconds = means[:4]
        traffic.payload_bytes, traffic.wire_bytes, span.skipped = means[4:]
        return box, obj, cls
