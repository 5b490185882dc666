"""Real training steps by mode, amount of data and model size: the cases, and what one rank does for them.

Started on every host by the deepspeed launcher; the first rank appends one JSON line per case to a file.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from yolo.calibration.strategies import COMPUTE, STRATEGIES, Strategy, Workload
from yolo.calibration.strategy_timing import WORKLOADS, StrategyTiming, job_of, measure
from yolo.training.engine.distributed import init_distributed, shutdown_distributed
from yolo.training.engine.launched import world_size_from_launcher

LOCAL_STEPS = 8
SYNCHRONOUS = STRATEGIES["zero0"]
MODES = (
    COMPUTE,
    replace(SYNCHRONOUS, label="synchronous"),
    STRATEGIES["overlapped"],
    replace(
        STRATEGIES["local_steps"],
        label=f"local steps, every {LOCAL_STEPS}",
        overrides=(f"communication.sync_every={LOCAL_STEPS}",),
        period=LOCAL_STEPS,
    ),
    COMPUTE,
)
"""Computing alone before and after: a machine that slows down meanwhile must not be taken for traffic."""
MODE_WORKLOAD = (1, 448)
"""Computing takes about as long as the exchange at 300 Mbit/s: the most that overlapping can hide."""
WORKLOADS_BY_DATA = (*((1, size) for size in (64, 128, 256)), *((n, 128) for n in (2, 4, 8)))
MODEL_WORKLOAD = (1, 64)
"""Gradients do not depend on the images: the smallest, so that large networks can be measured too."""


class Factor(StrEnum):
    """What is varied."""

    MODE = "mode"
    DATA = "data"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Case:
    """A strategy on a network and a workload."""

    factor: Factor
    strategy: Strategy
    workload: Workload
    steps: int
    """Timed."""
    variant: str = "n"


@dataclass(frozen=True, slots=True)
class CaseTiming(StrategyTiming):
    """One measured case."""

    factor: str
    label: str
    """Of the strategy."""
    variant: str


def cases(factors: Sequence[str], variants: Sequence[str], steps: int) -> list[Case]:
    """The cases of some factors, those of large networks last: with fewer steps, as each takes seconds."""
    found = [Case(Factor.MODE, mode, MODE_WORKLOAD, steps) for mode in MODES]
    found += [
        Case(Factor.DATA, replace(strategy, settle_steps=2), workload, steps)
        for workload in WORKLOADS_BY_DATA
        for strategy in (COMPUTE, SYNCHRONOUS)
    ]
    brief = replace(SYNCHRONOUS, settle_steps=1)
    found += [Case(Factor.MODEL, brief, MODEL_WORKLOAD, min(2, steps), name) for name in variants]
    return [case for case in found if case.factor in factors]


def main() -> None:
    """Measure the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factors", required=True)
    parser.add_argument("--variants", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank")
    options = parser.parse_args()
    hosts = world_size_from_launcher()
    ranks = init_distributed(job_of(WORKLOADS[0], hosts).recipe)
    for case in cases(options.factors.split(","), options.variants.split(","), options.steps):
        job = job_of(case.workload, hosts, f"model.variant={case.variant}")
        timing = measure(case.strategy, job, case.steps, ranks)
        found = CaseTiming(
            **asdict(timing),
            factor=case.factor,
            label=case.strategy.label,
            variant=case.variant,
        )
        if ranks.is_main:
            with options.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(found)) + "\n")
    shutdown_distributed()


if __name__ == "__main__":
    main()
