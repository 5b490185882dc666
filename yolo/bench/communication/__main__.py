"""Every strategy on emulated clusters: `python -m yolo.bench.communication --hosts 2,4 --bandwidths 100,300,1000`."""

import argparse
import statistics
import sys
from collections.abc import Sequence

from yolo.architecture import parameter_count
from yolo.bench.command_line import bench_progress
from yolo.bench.communication.cell import Line, cell_parser, cells_of, emulated_cell, run_cell
from yolo.bench.communication.strategy_rows import StrategyRow, write_rows
from yolo.calibration.strategies import COMPUTE, Workload, chosen
from yolo.emulation import link_check
from yolo.errors import exit_code_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the results; returns the exit code, 2 for an error that the user can fix."""
    parser = cell_parser("yolo.bench.communication", __doc__, hosts="2,4")
    parser.add_argument(
        "--ratio",
        type=float,
        default=10.0,
        help="stage 0's exchange at the lowest bandwidth takes this many times as long as computing; the images are chosen "
        "for it (default 10: the network is nearly everything there, and half at ten times the bandwidth)",
    )
    options = parser.parse_args(arguments)
    stopped = "stopped; results of the finished cells are kept"
    return exit_code_of(lambda: _measure(options), "bench", stopped)


def _measure(options: argparse.Namespace) -> None:
    strategies = chosen(options.strategies)
    cells = cells_of(options)
    rows: list[StrategyRow] = []
    with bench_progress() as progress:
        task = progress.add_task("strategies", total=len(cells) * len(strategies))
        workloads: dict[int, Workload] = {}
        for hosts, mbps in cells:
            progress.update(task, description=f"{hosts} hosts, {mbps:g} Mbit/s")
            workload = workloads.get(hosts) or _exchange_seconds(hosts, mbps) / options.ratio
            with emulated_cell(hosts, mbps) as cell:
                lines = run_cell(
                    cell, strategies, options.steps, workload, lambda: progress.advance(task)
                )
            workloads[hosts] = lines[0]["images"], lines[0]["image_size"]
            rows += _rows(hosts, mbps, lines)
            files = write_rows(rows, options.out)
    print("wrote", ", ".join(map(str, files)))


def _exchange_seconds(hosts: int, mbps: float) -> float:
    """Duration of stage 0's all-reduce at the rate of the links, by the ring's formula."""
    payload = parameter_count("n", 80) * 4 * 2 * (hosts - 1) / hosts
    return link_check.wire_bytes(round(payload)) * 8 / (mbps * 1e6)


def _rows(hosts: int, mbps: float, lines: Sequence[Line]) -> list[StrategyRow]:
    compute = statistics.mean(
        line["step_seconds"] for line in lines if line["strategy"] == COMPUTE.name
    )
    return [
        StrategyRow(
            hosts=hosts,
            bandwidth_mbps=mbps,
            compute_seconds=compute,
            exposed_communication_seconds=line["step_seconds"] - compute,
            **line,
        )
        for line in lines
        if line["strategy"] != COMPUTE.name
    ]


if __name__ == "__main__":
    sys.exit(main())
