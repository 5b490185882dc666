"""Measure strategies on one emulated cluster: a cell of a benchmark's table."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yolo.calibration.strategies import COMPUTE, Strategy, Workload
from yolo.emulation.cluster import EmulatedCluster
from yolo.errors import BenchError

TIMEOUT_SECONDS = 1800.0
Line = dict[str, Any]
"""A `yolo.calibration.strategy_timing.StrategyTiming` as JSON."""


def run_cell(
    cluster: EmulatedCluster,
    strategies: Sequence[Strategy],
    steps: int,
    workload: Workload | float,
    folder: Path,
    advance: Callable[[], None],
) -> list[Line]:
    """What the ranks of a cluster measured; `advance` is called for each strategy as it is done.

    `workload` may be the seconds that computing should take. Raises BenchError where the hosts end too early.
    """
    path = folder / "lines.jsonl"
    arguments = [
        *(
            "--module",
            "yolo.calibration.strategy_timing",
            "--out",
            str(path),
            "--steps",
            str(steps),
        ),
        *("--strategies", ",".join(strategy.name for strategy in strategies)),
    ]
    if isinstance(workload, tuple):
        arguments += ["--workload", *map(str, workload)]
    else:
        arguments += ["--compute-seconds", str(workload)]
    found: list[Line] = []

    def read() -> None:
        whole = path.read_text().split("\n")[:-1] if path.exists() else []
        for text in whole[len(found) :]:
            found.append(json.loads(text))
            if found[-1]["strategy"] != COMPUTE.name:
                advance()

    cluster.wait(cluster.launch(arguments, folder / "hosts"), TIMEOUT_SECONDS, meanwhile=read)
    read()
    expected = len(strategies) + 2
    if len(found) < expected:
        raise BenchError(f"the hosts ended after {len(found)} of {expected} measurements")
    return found


def numbers(kind: type[int] | type[float]) -> Callable[[str], list[float]]:
    """For argparse: a list such as 100,300."""

    def parse(text: str) -> list[float]:
        return [kind(word) for word in text.split(",")]

    parse.__name__ = f"list of {kind.__name__}"  # what argparse calls a wrong one
    return parse


def machine_words() -> str:
    """What the figures were measured on."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, gloo over emulated links, one rank a host"
    )
