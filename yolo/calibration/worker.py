"""What one rank does to calibrate the planner: a step without the network, each strategy's own work, each collective.

Started on every host by the launcher; the first rank writes what was measured as one JSON file. With `--verify`, it times
the strategies of a plan instead.
"""

import argparse
import base64
import gc
import json
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import torch

from yolo.calibration.collectives import NetworkCalibration, mean_over_ranks
from yolo.calibration.loader_rate import loader_images_per_second
from yolo.calibration.muted_collectives import muted_collectives
from yolo.calibration.stopwatch import seconds_per_call, synchronize
from yolo.calibration.strategies import CALIBRATED, COMPUTE, STRATEGIES, Strategy
from yolo.calibration.strategy_timing import measure
from yolo.calibration.synthetic_step import SyntheticTraining, TimingJob
from yolo.planner.cost.strategies import DDP, strategy_of
from yolo.planner.prediction import expected_maximum
from yolo.planner.profile import Measurement, Workload
from yolo.recipe import prepare
from yolo.recipe.schema.optimizer import ONE_BIT
from yolo.training.engine.distributed import (
    DistributedContext,
    all_gather_object,
    broadcast_object,
    init_distributed,
    shutdown_distributed,
)
from yolo.training.engine.launched import local_world_size_from_launcher, world_size_from_launcher
from yolo.training.loop.run_logger import log_to_console
from yolo.training.loop.step import StepPart

logger = logging.getLogger(__name__)

STEPS = 10
"""Timed of each strategy."""
SETTLE = 3
SETTLE_ALOUD = 2
"""Steps of a strategy before it is muted."""
LONGEST_SECONDS = 20.0
"""For one strategy; where steps take long, fewer are timed."""
READY_POINTS = 20


class Calibration:
    """The measurements of one rank; all methods are collective."""

    def __init__(
        self, job: TimingJob, ranks: DistributedContext, loads_data: bool, strategies: Sequence[str]
    ) -> None:
        """`loads_data` where steps will wait for images: benchmarks compute on made-up ones."""
        self.strategies = strategies
        self.loads_data = loads_data
        self.job = job
        self.ranks = ranks
        self.network = NetworkCalibration(job, ranks)

    def measure(self, bandwidth_gbps: float | None) -> Measurement:
        """Measure everything, in the order of a profile."""
        logger.info("calibrating: computation without communication")
        trainer = SyntheticTraining(COMPUTE, self.job, self.ranks)
        recipe = trainer.recipe
        elements = sum(parameter.numel() for parameter in trainer.model.parameters())
        is_sharded = recipe.sharding.columns > 1  # halos are no computing
        before = self._steps(trainer, is_sharded)
        with muted_collectives() if is_sharded else nullcontext():
            parts = trainer.seconds_by_part(STEPS // 2)
            ready = self._ready(trainer)
        del trainer
        gc.collect()
        local = self._local()
        trainer = SyntheticTraining(COMPUTE, self.job, self.ranks)
        after = self._steps(trainer, is_sharded)
        computing = statistics.mean(map(statistics.median, (before, after)))
        del trainer
        gc.collect()
        logger.info("calibrating: collectives")
        collectives = self.network.collectives(elements)
        framing, sent_gbps = self.network.framing(elements)
        beside = self.network.bytes_beside(collectives, framing)
        images_per_second = None
        if self.loads_data:
            logger.info("calibrating: loading images")
            images_per_second = loader_images_per_second(recipe, self.ranks)
        scale = computing / sum(parts.values())
        micro_steps = recipe.train.gradient_accumulation_steps
        return Measurement(
            ranks=self.ranks.world_size,
            bandwidth_gbps=bandwidth_gbps or sent_gbps,
            wire_bytes_per_payload_byte=framing,
            wire_bytes_per_collective=beside,
            workload=Workload(
                variant=recipe.model.variant,
                classes=self.job.classes,
                image_size=recipe.model.image_size,
                micro_batch=recipe.train.micro_batch,
                dtype=recipe.precision.dtype,
                columns=recipe.sharding.columns,
            ),
            forward_seconds=self._mean(parts["forward"] * scale / micro_steps),
            backward_seconds=self._mean(parts["backward"] * scale / micro_steps),
            update_seconds=self._mean(parts["update"] * scale),
            jitter=self._jitter(before),
            ready=ready,
            local_seconds={key: self._mean(seconds - computing) for key, seconds in local.items()},
            collectives=collectives,
            seconds_behind=self.network.behind(),
            loader_images_per_second=images_per_second,
        )

    def _mean(self, value: float) -> float:
        return mean_over_ranks(self.ranks, value)

    # --- a rank's own work --------------------------------------------------------------------------------------

    def _steps(self, trainer: SyntheticTraining, is_muted: bool = False) -> list[float]:
        """Seconds per step of a strategy, all ranks busy; a mean of its period counts as one."""
        quiet = muted_collectives if is_muted else nullcontext
        period, device = trainer.strategy.period, self.ranks.device
        with quiet():
            for _ in range(max(SETTLE, trainer.strategy.settle_steps)):
                trainer.step()
            once = seconds_per_call(trainer.step, device)
        fits = LONGEST_SECONDS / max(1e-6, once)
        windows = max(3, min(STEPS, int(fits))) if period == 1 else 2
        windows = broadcast_object(self.ranks, windows)
        with quiet():
            return [seconds_per_call(trainer.step, device, period) for _ in range(windows)]

    def _jitter(self, alone: Sequence[float]) -> float:
        """Standard deviation of a rank's step: by how far the slowest of them is from their mean, step by step."""
        if self.ranks.world_size == 1:
            return statistics.stdev(alone) / statistics.median(alone)
        steps = list(zip(*all_gather_object(self.ranks, alone), strict=True))
        late = statistics.median(max(step) - statistics.mean(step) for step in steps)
        mean = statistics.mean(statistics.mean(step) for step in steps)
        return late / mean / expected_maximum(self.ranks.world_size)

    def _ready(self, trainer: SyntheticTraining) -> list[tuple[float, float]]:
        """How the gradients of one micro step become ready: (share of backward, share of gradients)."""
        ready: list[tuple[float, int]] = []
        parameters = list(trainer.model.parameters())
        hooks = [
            parameter.register_post_accumulate_grad_hook(
                lambda p: ready.append((time.perf_counter(), p.numel()))
            )
            for parameter in parameters
        ]
        clock = _BackwardClock(self.ranks.device)
        for _ in range(2):  # memory is touched in the first
            ready.clear()
            trainer.step(clock)
        for hook in hooks:
            hook.remove()
        times, sizes = zip(*ready[-len(parameters) :], strict=True)  # of the last micro step
        start, end, total = clock.started, times[-1], sum(sizes)
        curve = [
            ((at - start) / (end - start), done / total)
            for at, done in zip(times, accumulate(sizes), strict=True)
        ]
        chosen = [curve[round(k * (len(curve) - 1) / READY_POINTS)] for k in range(READY_POINTS)]
        return [(0.0, 0.0), *((min(1.0, at), min(1.0, done)) for at, done in chosen), (1.0, 1.0)]

    def _local(self) -> dict[str, float]:
        """A muted step under each strategy."""
        found = {}
        for strategy in self._strategies():
            logger.info("calibrating: %s", strategy.label)
            dist.barrier()
            trainer = SyntheticTraining(strategy, self.job, self.ranks, is_muted=True)
            # Stage 3 compares what it has seen of the network between ranks.
            for _ in range(SETTLE_ALOUD):
                trainer.step()
            key = (DDP if strategy.ddp_bucket_mb else strategy_of(trainer.recipe)).key
            found[key] = statistics.median(self._steps(trainer, is_muted=True))
            del trainer
            gc.collect()
        return found

    def _strategies(self) -> list[Strategy]:
        """Those that the recipe can be put under: SGD has no 1-bit form."""
        if self.ranks.world_size == 1:
            return []
        wanted = [STRATEGIES[name] for name in self.strategies]
        if self.job.recipe.precision.dtype != "fp16":
            return wanted
        skipped = (*ONE_BIT, "sync_every")
        return [s for s in wanted if not any(word in " ".join(s.overrides) for word in skipped)]


class _BackwardClock:
    """Notes when the last backward of a step starts (`StepObserver`)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = 0.0

    def begin(self, part: StepPart, step: int) -> None:
        if part is StepPart.BACKWARD:
            synchronize(self.device)
            self.started = time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate, or time the strategies of a plan; write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--bandwidth-gbps", type=float, help="of a node's link, where known")
    parser.add_argument(
        "--strategies", default=",".join(CALIBRATED), help="names, separated by commas"
    )
    parser.add_argument("--loads-data", action="store_true", help="measure the data loader too")
    parser.add_argument(
        "--verify", help="[{name, overrides, period, settle_steps}] as JSON in base64: time these"
    )
    parser.add_argument("--steps", type=int, help="timed per strategy of --verify")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    sizes = world_size_from_launcher(), local_world_size_from_launcher()
    job = TimingJob(prepare(options.recipe, options.overrides, *sizes), options.classes)
    ranks = init_distributed(job.recipe)
    found: Any
    if options.verify:
        strategies = json.loads(base64.b64decode(options.verify))
        found = list(_timings(strategies, job, options.steps, ranks))
    else:
        log_to_console(ranks.is_main)
        calibration = Calibration(job, ranks, options.loads_data, options.strategies.split(","))
        found = calibration.measure(options.bandwidth_gbps).model_dump(mode="json")
    if ranks.is_main:
        options.out.write_text(json.dumps(found), encoding="utf-8")
    shutdown_distributed()


def _timings(
    strategies: Sequence[dict[str, Any]], job: TimingJob, steps: int, ranks: DistributedContext
) -> Iterator[dict[str, Any]]:
    for each in strategies:
        strategy = Strategy(label=each["name"], **each | {"overrides": tuple(each["overrides"])})
        if ranks.is_main:
            print(f"measuring: {strategy.label}", flush=True)
        yield asdict(measure(strategy, job, steps, ranks))


if __name__ == "__main__":
    main()
