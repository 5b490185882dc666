"""Time all-reduces of several sizes and count their bytes: what one rank does for the factor protocol.

Each protocol's launcher starts it on every host; `cluster.backend` is all that differs. The first rank appends one JSON
line per size to a file.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from yolo.bench.command_line import numbers
from yolo.calibration.collectives import SETTLED_SECONDS, interface_bytes, mean_over_ranks
from yolo.calibration.stopwatch import seconds_per_call
from yolo.calibration.strategy_timing import RECIPE, WORKLOADS, job_overrides
from yolo.recipe import prepare
from yolo.training.engine.distributed import (
    DistributedContext,
    all_gather_object,
    broadcast_object,
    init_distributed,
    shutdown_distributed,
)
from yolo.training.engine.launched import world_size_from_launcher

WARM_UP = 2
"""Calls before timing: connections are made, and buffers touched."""
FEWEST, MOST = 5, 40
TIMED_SECONDS = 1.0
"""Per size, between the fewest and the most calls."""


@dataclass(frozen=True, slots=True)
class AllReduceTiming:
    """All-reduces of one size."""

    payload_bytes: int
    calls: int
    seconds: float
    """Median over the calls, each the mean over the ranks."""
    seconds_low: float
    """The fastest call."""
    seconds_high: float
    """The slowest call."""
    wire_bytes: float
    """Sent per call by a host's interface, headers and acknowledgements included; mean over the ranks."""
    busy_cores: float
    """Processor time of a rank's process per second, waiting included; mean over the ranks."""


def measure(payload_bytes: int, ranks: DistributedContext) -> AllReduceTiming:
    """Time all-reduces of a tensor in fp32; collective."""
    tensor = torch.zeros(payload_bytes // 4, device=ranks.device)

    def call() -> None:
        dist.all_reduce(tensor)

    warm = [seconds_per_call(call, ranks.device) for _ in range(WARM_UP)]
    calls = broadcast_object(ranks, max(FEWEST, min(MOST, round(TIMED_SECONDS / min(warm)))))
    dist.barrier()
    sent_before = interface_bytes()
    busy_before, started = time.process_time(), time.perf_counter()
    seconds = [seconds_per_call(call, ranks.device) for _ in range(calls)]
    busy = (time.process_time() - busy_before) / (time.perf_counter() - started)
    time.sleep(SETTLED_SECONDS)  # the last acknowledgements
    sent = (interface_bytes() - sent_before) / calls
    means = [statistics.mean(each) for each in zip(*all_gather_object(ranks, seconds), strict=True)]
    return AllReduceTiming(
        payload_bytes=payload_bytes,
        calls=calls,
        seconds=statistics.median(means),
        seconds_low=min(means),
        seconds_high=max(means),
        wire_bytes=mean_over_ranks(ranks, sent),
        busy_cores=mean_over_ranks(ranks, busy),
    )


def main() -> None:
    """Measure the sizes asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--sizes", required=True, help="bytes, separated by commas")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank")
    options = parser.parse_args()
    hosts = world_size_from_launcher()
    overrides = (*job_overrides(WORKLOADS[0], hosts), f"cluster.backend={options.backend}")
    ranks = init_distributed(prepare(RECIPE, overrides, hosts, 1).resolved.recipe)
    for size in numbers("--sizes", options.sizes, int):
        timing = measure(size, ranks)
        if ranks.is_main:
            with options.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(timing)) + "\n")
    shutdown_distributed()


if __name__ == "__main__":
    main()
