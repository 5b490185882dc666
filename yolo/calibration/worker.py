"""What one rank does to calibrate the planner: a step without the network, each strategy's own work, each collective.

Started on every host by the launcher; the first rank writes what was measured as one JSON file.
"""

import argparse
import gc
import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import deepspeed.comm as dist
import torch

from yolo.calibration.collectives import NetworkCalibration
from yolo.calibration.loader_rate import loader_images_per_second
from yolo.calibration.muted_collectives import muted_collectives
from yolo.calibration.strategies import COMPUTE, STRATEGIES, Strategy
from yolo.calibration.synthetic_step import SyntheticTraining, TimingJob
from yolo.planner.cost.compute import strategy_key
from yolo.planner.prediction import expected_maximum
from yolo.planner.profile import Measurement, Workload
from yolo.recipe import prepare
from yolo.recipe.schema.optimizer import ONE_BIT
from yolo.training.engine.distributed import (
    DistributedContext,
    all_gather_object,
    broadcast_object,
    init_distributed,
    local_world_size_from_launcher,
    shutdown_distributed,
    world_size_from_launcher,
)
from yolo.training.loop.run_logger import log_to_console
from yolo.training.loop.step import StepPart

logger = logging.getLogger(__name__)

STEPS = 10
"""Timed of each strategy."""
SETTLE = 3
SETTLE_ALOUD = 2
"""Of a strategy, before it is muted."""
LONGEST_SECONDS = 20.0
"""For one strategy; where steps take long, fewer are timed."""
ALL_STRATEGIES = (
    *("zero0", "zero0_bf16", "zero1", "zero2", "zero3_persistent", "ddp", "overlapped"),
    *("overlapped_bf16", "powersgd", "onebit_adam", "zero_one_adam", "onebit_lamb"),
    *("zero_one_adam_local", "local_steps", "local_steps_one_bit"),
)
READY_POINTS = 20


@dataclass(frozen=True, slots=True)
class Timed:
    """Steps of one strategy on this rank."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Calibration:
    """The measurements of one rank; all methods are collective."""

    def __init__(
        self,
        job: TimingJob,
        ranks: DistributedContext,
        loads_data: bool = False,
        strategies: Sequence[str] = ALL_STRATEGIES,
    ) -> None:
        """`loads_data` where steps will wait for images: benchmarks compute on made-up ones."""
        self.strategies = strategies
        self.loads_data = loads_data
        self.job = job
        self.ranks = ranks
        self.network = NetworkCalibration(job, ranks)

    def measure(self, bandwidth_gbps: float | None) -> Measurement:
        """Everything, in the order in which it stands in a profile."""
        logger.info("calibrating: computation without communication")
        trainer = SyntheticTraining(COMPUTE, self.job, self.ranks)
        recipe = trainer.recipe
        elements = sum(parameter.numel() for parameter in trainer.model.parameters())
        before = self._steps(trainer)
        parts = trainer.seconds_by_part(STEPS // 2)
        ready = self._ready(trainer)
        del trainer
        gc.collect()
        local = self._local()
        trainer = SyntheticTraining(COMPUTE, self.job, self.ranks)
        computing = statistics.mean([before.median, self._steps(trainer).median])
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
        return statistics.mean(all_gather_object(self.ranks, value))

    # --- a rank's own work --------------------------------------------------------------------------------------

    def _steps(self, trainer: SyntheticTraining, is_muted: bool = False) -> Timed:
        """Steps of a strategy, all ranks busy; a mean of its period counts as one."""
        quiet = muted_collectives if is_muted else nullcontext
        period = trainer.strategy.period
        with quiet():
            for _ in range(max(SETTLE, trainer.strategy.settle_steps)):
                trainer.step()
            self._synchronise()
            started = time.perf_counter()
            trainer.step()
            self._synchronise()
        fits = LONGEST_SECONDS / max(1e-6, time.perf_counter() - started)
        windows = max(3, min(STEPS, int(fits))) if period == 1 else 2
        windows = broadcast_object(self.ranks, windows)
        seconds = []
        with quiet():
            for _ in range(windows):
                started = time.perf_counter()
                for _ in range(period):
                    trainer.step()
                self._synchronise()
                seconds.append((time.perf_counter() - started) / period)
        return Timed(seconds)

    def _jitter(self, alone: Timed) -> float:
        """Standard deviation of a rank's step: by how far the slowest of them is from their mean, step by step."""
        if self.ranks.world_size == 1:
            return statistics.stdev(alone.seconds) / alone.median
        steps = list(zip(*all_gather_object(self.ranks, alone.seconds), strict=True))
        late = statistics.median(max(step) - statistics.mean(step) for step in steps)
        mean = statistics.mean(statistics.mean(step) for step in steps)
        return late / mean / expected_maximum(self.ranks.world_size)

    def _synchronise(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)

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
        clock = _BackwardClock(self._synchronise)
        curves = []
        for _ in range(SETTLE):
            ready.clear()
            trainer.step(clock)
            last_micro_step = ready[-len(parameters) :]
            sizes = list(accumulate(size for _, size in last_micro_step))
            start, end = clock.started, last_micro_step[-1][0]
            curves.append(
                [
                    ((at - start) / (end - start), done / sizes[-1])
                    for (at, _), done in zip(last_micro_step, sizes, strict=True)
                ]
            )
        for hook in hooks:
            hook.remove()
        middle = curves[len(curves) // 2]
        chosen = [middle[round(k * (len(middle) - 1) / READY_POINTS)] for k in range(READY_POINTS)]
        return [(0.0, 0.0), *((min(1.0, at), min(1.0, done)) for at, done in chosen), (1.0, 1.0)]

    def _local(self) -> dict[str, float]:
        """A muted step under each strategy."""
        found = {}
        for strategy in self._strategies():
            logger.info("calibrating: %s", strategy.label)
            recipe = self.job.under(strategy, self.ranks)
            key = "ddp" if strategy.ddp_bucket_mb else strategy_key(recipe)
            dist.barrier()
            trainer = SyntheticTraining(strategy, self.job, self.ranks, is_muted=True)
            for _ in range(
                SETTLE_ALOUD
            ):  # stage 3 compares what it has seen of the network between ranks
                trainer.step()
            steps = self._steps(trainer, is_muted=True)
            found[key] = steps.median
            del trainer
            gc.collect()
        return found

    def _strategies(self) -> list[Strategy]:
        """Those that the recipe can be put under: SGD has no 1-bit form."""
        recipe = prepare(
            self.job.recipe, self.job.overrides, self.ranks.world_size, self.ranks.local_world_size
        ).resolved.recipe
        if self.ranks.world_size == 1:
            return []
        wanted = [STRATEGIES[name] for name in self.strategies]
        if recipe.precision.dtype == "fp16":
            left_out = (*ONE_BIT, "sync_every")
            wanted = [
                s
                for s in wanted
                if not any(word in text for text in s.overrides for word in left_out)
            ]
        return wanted


class _BackwardClock:
    """Notes when the last backward of a step starts (`StepObserver`)."""

    def __init__(self, synchronise: Callable[[], None]) -> None:
        self.synchronise = synchronise
        self.started = 0.0

    def begin(self, part: StepPart, step: int) -> None:
        if part is StepPart.BACKWARD:
            self.synchronise()
            self.started = time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--bandwidth-gbps", type=float, help="of a node's link, where known")
    parser.add_argument(
        "--strategies", default=",".join(ALL_STRATEGIES), help="names, separated by commas"
    )
    parser.add_argument("--loads-data", action="store_true", help="measure the data loader too")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    job = TimingJob(options.recipe, tuple(options.overrides), options.classes)
    local = local_world_size_from_launcher()
    ranks = init_distributed(
        prepare(job.recipe, job.overrides, world_size_from_launcher(), local).resolved.recipe
    )

    log_to_console(ranks.is_main)
    calibration = Calibration(job, ranks, options.loads_data, options.strategies.split(","))
    measured = calibration.measure(options.bandwidth_gbps)
    if ranks.is_main:
        temporary = options.out.with_name(f".{options.out.name}.part")
        temporary.write_text(json.dumps(measured.model_dump(mode="json")), encoding="utf-8")
        temporary.replace(options.out)
    shutdown_distributed()


if __name__ == "__main__":
    main()
