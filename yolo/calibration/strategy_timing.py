"""What one rank does in the benchmark: the same training step under each strategy, timed and counted on the interface.

Started on every host by the deepspeed launcher; the first rank appends one JSON line a strategy to a file.
"""

import argparse
import gc
import json
import re
import shutil
import statistics
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import deepspeed.comm as dist
import numpy as np

from yolo.calibration.collectives import interface_bytes
from yolo.calibration.stopwatch import seconds_per_call
from yolo.calibration.strategies import COMPUTE, Strategy, Workload, chosen
from yolo.calibration.synthetic_step import DDPEngine, SyntheticTraining, TimingJob
from yolo.communication.metering.meter import TrafficMeter
from yolo.recipe import prepare
from yolo.training.engine.distributed import (
    DistributedContext,
    all_gather_object,
    init_distributed,
    shutdown_distributed,
)
from yolo.training.engine.launched import world_size_from_launcher
from yolo.training.engine.memory_stats import gradient_bytes, optimizer_bytes, parameter_bytes
from yolo.training.loop.step import StepPart

RECIPE = "recipes/bccd.yaml"
"""Only its network and optimizer count here: images are synthetic."""
CLASSES = 3
WORKLOADS = (
    *((1, size) for size in (64, 96, 128, 160, 192, 224, 256, 320, 448, 640)),
    *((images, 640) for images in (2, 3, 4, 6, 8, 12, 16)),
)
"""Images a rank and their size in pixels, each taking longer to compute than the one before."""
LEAST_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class StrategyTiming:
    """One strategy on one network."""

    strategy: str
    images: int
    """A rank and step."""
    image_size: int
    step_seconds: float
    """Median over windows of `period` steps, each the mean over the ranks."""
    step_seconds_low: float
    """First quartile."""
    step_seconds_high: float
    """Third quartile."""
    wire_bytes_per_rank_per_step: float
    """Sent by this host's interface: headers and acknowledgements included; mean over the ranks."""
    sent_bytes_per_rank_per_step: float
    """The same without headers and acknowledgements, by the kernel's count: what TCP was given to send."""
    metered_bytes_per_rank_per_step: float
    """By our own meter; torch DDP's reducer goes past it."""
    collectives_per_step: float
    parameter_bytes: int
    """In a rank's memory, of the network's parameters."""
    gradient_bytes: int
    """When backward is over."""
    optimizer_bytes: int
    """Moments, master copies and the like."""


def job_overrides(workload: Workload, hosts: int) -> tuple[str, ...]:
    """Values on top of `RECIPE` for the workload's images per rank, with one rank per host."""
    images, image_size = workload
    return (
        *(f"train.global_batch={images * hosts}", f"train.micro_batch={images}"),
        *(f"model.image_size={image_size}", f"cluster.nodes={hosts}"),
        *("cluster.processes_per_node=1", "cluster.threads_per_process=1"),
    )


def job_of(workload: Workload, hosts: int, *overrides: str) -> TimingJob:
    """`RECIPE` with `job_overrides`, and others behind them."""
    values = (*job_overrides(workload, hosts), *overrides)
    return TimingJob(prepare(RECIPE, values, hosts, 1), CLASSES)


def measure(
    strategy: Strategy, job: TimingJob, steps: int, ranks: DistributedContext
) -> StrategyTiming:
    """Time `steps` steps, or as many windows of a strategy's period as hold them; collective."""
    trainer = SyntheticTraining(strategy, job, ranks)
    meter = TrafficMeter().attach()
    for _ in range(strategy.settle_steps):
        trainer.step()
    windows = max(LEAST_WINDOWS, -(-steps // strategy.period))
    dist.barrier()
    meter.take()
    before = _sent()
    seconds = [
        seconds_per_call(trainer.step, ranks.device, strategy.period) for _ in range(windows)
    ]
    traffic = meter.take()
    meter.detach()
    dist.barrier()
    sent = _sent() - before
    # The meter does not see those of DDP.
    beside = trainer.engine.collectives if isinstance(trainer.engine, DDPEngine) else 0
    of_rank = seconds, *sent, *_memory(trainer)
    of_all = zip(*all_gather_object(ranks, of_rank), strict=True)
    each_seconds, on_the_wire, handed_over, gradients, parameters, moments = of_all
    recipe = trainer.recipe
    del trainer
    gc.collect()  # an engine and its hooks hold each other
    steps = windows * strategy.period
    means = [statistics.mean(window) for window in zip(*each_seconds, strict=True)]
    low, middle, high = statistics.quantiles(means, n=4, method="inclusive")
    return StrategyTiming(
        strategy=strategy.name,
        images=recipe.train.micro_batch,
        image_size=recipe.model.image_size,
        step_seconds=middle,
        step_seconds_low=low,
        step_seconds_high=high,
        wire_bytes_per_rank_per_step=statistics.mean(on_the_wire) / steps,
        sent_bytes_per_rank_per_step=statistics.mean(handed_over) / steps,
        metered_bytes_per_rank_per_step=traffic.wire_bytes / steps,
        collectives_per_step=traffic.calls / steps + beside,
        gradient_bytes=max(gradients),
        parameter_bytes=max(parameters),
        optimizer_bytes=max(moments),
    )


def _memory(trainer: SyntheticTraining) -> tuple[int, int, int]:
    """Bytes of gradients, parameters and optimizer; takes one more step."""
    weigher = _GradientWeigher(trainer)
    trainer.step(weigher)
    optimizer = optimizer_bytes(trainer.engine.optimizer)
    return weigher.bytes, parameter_bytes(trainer.model), optimizer


class _GradientWeigher:
    """Measures the gradients when backward is over (`StepObserver`)."""

    def __init__(self, trainer: SyntheticTraining) -> None:
        self.trainer = trainer
        self.bytes = 0

    def begin(self, part: StepPart, step: int) -> None:
        if part is StepPart.UPDATE:
            self.bytes = gradient_bytes(self.trainer.model, self.trainer.engine.optimizer)


def _fitting(target_seconds: float, ranks: DistributedContext) -> Workload:
    """The workload whose computing comes nearest to a time from below, or the smallest."""
    best = WORKLOADS[0]
    for workload in WORKLOADS:
        measured = measure(COMPUTE, job_of(workload, ranks.world_size), 6, ranks)
        if measured.step_seconds > target_seconds:
            break
        best = workload
    return best


def _sent() -> np.ndarray:
    """Bytes on the wire by this host's interface, and those handed to its TCP; 0 where nothing counts them.

    What is sent again after a loss counts once among the second.
    """
    said = ""
    if shutil.which("ss"):
        said = subprocess.run(["ss", "-tinH"], capture_output=True, text=True, check=True).stdout
    sent, again = (
        sum(map(int, re.findall(rf"\b{word}:(\d+)", said)))
        for word in ("bytes_sent", "bytes_retrans")
    )
    return np.array([interface_bytes(), sent - again], dtype=float)


def main() -> None:
    """Measure the strategies asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--workload", type=int, nargs=2, metavar=("IMAGES", "PIXELS"))
    parser.add_argument("--compute-seconds", type=float, help="choose the workload for it")
    parser.add_argument("--local_rank")
    options = parser.parse_args()
    world_size = world_size_from_launcher()
    ranks = init_distributed(job_of(WORKLOADS[0], world_size).recipe)
    job = job_of(options.workload or _fitting(options.compute_seconds, ranks), world_size)
    # Computing alone is measured before and after: a machine that slows down meanwhile must not be taken for traffic.
    for strategy in (COMPUTE, *chosen(options.strategies), COMPUTE):
        measured = measure(strategy, job, options.steps, ranks)
        if ranks.is_main:
            with options.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(measured)) + "\n")
    shutdown_distributed()


if __name__ == "__main__":
    main()
