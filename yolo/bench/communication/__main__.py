"""Every strategy on emulated clusters: `python -m yolo.bench.communication --hosts 2,4 --bandwidths 100,300,1000`."""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from yolo.architecture import parameter_count
from yolo.bench.communication.cell import Line, machine_words, numbers, run_cell
from yolo.bench.communication.results import StrategyRow, write_results
from yolo.bench.progress import bench_progress
from yolo.calibration.strategies import COMPUTE, Strategy, Workload, chosen
from yolo.emulation import link_check as gate
from yolo.emulation.cluster import EmulatedCluster
from yolo.errors import exit_code_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the results; returns the exit code, 2 where the user has to put something right."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.communication", description=__doc__)
    parser.add_argument("--hosts", type=numbers(int), default="2,4", help="such as 2,4")
    parser.add_argument(
        "--bandwidths", type=numbers(float), default="100,300,1000", help="Mbit/s of each link"
    )
    parser.add_argument("--strategies", default="all", help="names, or all")
    parser.add_argument("--steps", type=int, default=10, help="timed for each strategy")
    parser.add_argument(
        "--ratio",
        type=float,
        default=10.0,
        help="how many times as long as computing stage 0's exchange takes at the lowest bandwidth; images are chosen for "
        "it (default 10: there the network is nearly everything, and at ten times the bandwidth half)",
    )
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    stopped = "stopped; results of the cells that were done are kept"
    return exit_code_of(lambda: _measure(options), "bench", stopped)


def _measure(options: argparse.Namespace) -> None:
    strategies = chosen(options.strategies)
    cells = [(n, mbps) for n in options.hosts for mbps in sorted(options.bandwidths)]
    rows: list[StrategyRow] = []
    with bench_progress() as progress:
        task = progress.add_task("strategies", total=len(cells) * len(strategies))
        workloads: dict[int, Workload] = {}
        for hosts, mbps in cells:
            progress.update(task, description=f"{hosts} hosts, {mbps:g} Mbit/s")
            found = _cell(
                hosts,
                mbps,
                strategies,
                options.steps,
                workloads.get(hosts) or _exchange_seconds(hosts, mbps) / options.ratio,
                lambda: progress.advance(task),
            )
            workloads[hosts] = found[0]["images"], found[0]["image_size"]
            rows += _rows(hosts, mbps, found)
            files = write_results(rows, options.out, machine_words())
    print("wrote", ", ".join(map(str, files)))


def _cell(
    hosts: int,
    mbps: float,
    strategies: Sequence[Strategy],
    steps: int,
    workload: Workload | float,
    advance: Callable[[], None],
) -> list[Line]:
    """What the ranks of one cluster measured; `workload` may be the seconds that computing should take."""
    with (
        EmulatedCluster(hosts, mbps) as cluster,
        tempfile.TemporaryDirectory(prefix="yolo-bench-") as folder,
    ):
        gate.check(cluster)
        return run_cell(cluster, strategies, steps, workload, Path(folder), advance)


def _exchange_seconds(hosts: int, mbps: float) -> float:
    """How long stage 0's all-reduce takes at the rate of the links, by the ring's formula."""
    payload = parameter_count("n", 80) * 4 * 2 * (hosts - 1) / hosts
    return gate.wire_bytes(round(payload)) * 8 / (mbps * 1e6)


def _rows(hosts: int, mbps: float, found: Sequence[Line]) -> list[StrategyRow]:
    compute = statistics.mean(
        line["step_seconds"] for line in found if line["strategy"] == COMPUTE.name
    )
    return [
        StrategyRow(
            hosts=hosts,
            bandwidth_mbps=mbps,
            compute_seconds=compute,
            exposed_communication_seconds=line["step_seconds"] - compute,
            **line,
        )
        for line in found
        if line["strategy"] != COMPUTE.name
    ]


if __name__ == "__main__":
    sys.exit(main())
