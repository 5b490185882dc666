"""One cell of a benchmark's table: strategies measured on one emulated cluster."""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolo.bench.command_line import add_out, numbers
from yolo.calibration.launch_worker import MODULE as CALIBRATION
from yolo.calibration.strategies import COMPUTE, Strategy, Workload
from yolo.calibration.strategy_timing import CLASSES, RECIPE, job_overrides
from yolo.emulation import link_check
from yolo.emulation.cluster import EmulatedCluster
from yolo.errors import BenchError
from yolo.planner.profile import Measurement

TIMEOUT_SECONDS = 1800.0
CALIBRATION_SECONDS = 300.0
Line = dict[str, Any]
"""A `yolo.calibration.strategy_timing.StrategyTiming` as JSON."""
Launch = Callable[[EmulatedCluster, Sequence[str], Path], "list[subprocess.Popen[bytes]]"]
"""Starts `--module MODULE ARGUMENT...` on all hosts, with their output in a folder: `EmulatedCluster.launch` or alike."""
EmulatedCell = tuple[EmulatedCluster, Path]
"""A cluster whose links are as slow as requested, and a temporary folder for its output."""


@contextmanager
def emulated_cell(hosts: int, mbps: float) -> Iterator[EmulatedCell]:
    """Build a cluster and check its links; raises BenchError if they are not as slow as requested."""
    with (
        EmulatedCluster(hosts, mbps) as cluster,
        tempfile.TemporaryDirectory(prefix="yolo-bench-") as folder,
    ):
        link_check.check(cluster)
        yield cluster, Path(folder)


def cell_parser(name: str, description: str | None, hosts: str) -> argparse.ArgumentParser:
    """A parser with the options that choose cells and strategies."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument("--hosts", default=hosts, help="default %(default)s")
    parser.add_argument("--bandwidths", default="100,300,1000", help="Mbit/s per link")
    parser.add_argument("--strategies", default="all", help="names, or all that are compared")
    parser.add_argument("--steps", type=int, default=10, help="timed per strategy")
    add_out(parser)
    return parser


def cells_of(options: argparse.Namespace) -> list[tuple[int, float]]:
    """Numbers of hosts and bandwidths: every combination, low bandwidths first."""
    bandwidths = sorted(numbers("--bandwidths", options.bandwidths, float))
    return [(n, mbps) for n in numbers("--hosts", options.hosts, int) for mbps in bandwidths]


def run_cell(
    cell: EmulatedCell,
    strategies: Sequence[Strategy],
    steps: int,
    workload: Workload | float,
    advance: Callable[[], None],
) -> list[Line]:
    """Measure strategies on the ranks of a cluster; `advance` is called after each strategy.

    `workload` may be the seconds that computing should take. Raises BenchError if the hosts end too early.
    """
    words: tuple[object, ...] = ("--compute-seconds", workload)
    if isinstance(workload, tuple):
        words = ("--workload", *workload)
    arguments = [
        *("--module", "yolo.calibration.strategy_timing"),
        *("--strategies", ",".join(strategy.name for strategy in strategies)),
        *("--steps", str(steps), *map(str, words)),
    ]

    def note(line: Line) -> None:
        if line["strategy"] != COMPUTE.name:
            advance()

    return run_ranks(cell, arguments, len(strategies) + 2, note)


def run_ranks(
    cell: EmulatedCell,
    arguments: Sequence[str],
    expected: int,
    note: Callable[[Line], None],
    launch: Launch = EmulatedCluster.launch,
) -> list[Line]:
    """Run a program on all hosts, whose first rank appends one JSON line per measurement to the file `--out`.

    `note` is called with each line as soon as it is there. Raises BenchError if there are less than `expected`.
    """
    cluster, folder = cell
    path = folder / "lines.jsonl"
    path.unlink(missing_ok=True)
    lines: list[Line] = []

    def read() -> None:
        complete = path.read_text().split("\n")[:-1] if path.exists() else []
        for text in complete[len(lines) :]:
            lines.append(json.loads(text))
            note(lines[-1])

    processes = launch(cluster, [*arguments, "--out", str(path)], folder / "hosts")
    cluster.wait(processes, TIMEOUT_SECONDS, meanwhile=read)
    read()
    if len(lines) < expected:
        raise BenchError(f"the hosts ended after {len(lines)} of {expected} measurements")
    return lines


def calibrate_cell(
    cell: EmulatedCell, mbps: float, names: Sequence[str], workload: Workload
) -> Measurement:
    """Calibrate the planner on a cluster, for strategies by their names."""
    cluster, folder = cell
    out = folder / "calibration.json"
    arguments = [
        *("--module", CALIBRATION, "--recipe", RECIPE, "--classes", str(CLASSES)),
        *("--strategies", ",".join(names)),
        *("--bandwidth-gbps", str(mbps / 1e3), "--out", str(out)),
        *job_overrides(workload, len(cluster.hosts)),
    ]
    processes = cluster.launch(arguments, folder / "calibration")
    cluster.wait(processes, CALIBRATION_SECONDS)
    return Measurement.model_validate_json(out.read_text())
