"""Sharding by sample, by feature and by both on emulated hosts: `python -m yolo.bench.sharding --hosts 4`.

The planner is calibrated on whole images at each bandwidth, and predicts the step of each mesh; then all are measured.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from yolo.bench import results
from yolo.bench.command_line import add_out, bench_progress, numbers
from yolo.bench.communication.cell import (
    TIMEOUT_SECONDS,
    EmulatedCell,
    Line,
    calibrate_cell,
    emulated_cell,
)
from yolo.bench.communication.strategy_rows import MACHINE
from yolo.bench.sharding.worker import STRATEGY, sharded_job
from yolo.calibration.calibrate import new_profile
from yolo.calibration.strategy_timing import CLASSES
from yolo.errors import BenchError, exit_code_of
from yolo.planner.prediction import Data, predict
from yolo.planner.profile import ClusterProfile
from yolo.recipe.resolve.hardware import count_cores

DATA = Data(images=1000, classes=CLASSES)
"""Only predicted hours depend on the number of images."""
COLUMNS = (
    *("hosts", "Mbit/s", "sharding", "data x columns", "predicted ms", "measured ms", "error"),
    *("MB sent, predicted", "measured", "error"),
)


@dataclass(frozen=True, slots=True)
class ShardingRow:
    """One mesh at one bandwidth; seconds and bytes are per step per rank."""

    hosts: int
    bandwidth_mbps: float
    columns: int
    predicted_step_seconds: float
    measured_step_seconds: float
    """Median over the rounds."""
    measured_rounds: tuple[float, ...]
    predicted_sent_bytes: float
    measured_sent_bytes: float
    """Handed to TCP, by the kernel's count."""
    predicted_interface_bytes: float
    measured_interface_bytes: float
    """With headers and acknowledgements."""

    @property
    def sharding(self) -> str:
        """By sample, by feature, or by both."""
        if self.columns == 1:
            return "sample"
        return "feature" if self.columns == self.hosts else "both"


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate, predict, measure, and write the results; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.sharding", description=__doc__)
    parser.add_argument("--hosts", type=int, default=4, help="default %(default)s")
    parser.add_argument("--bandwidths", default="100,1000", help="Mbit/s per link")
    parser.add_argument("--columns", default="1,2,4", help="ranks per image")
    parser.add_argument("--images", type=int, default=4, help="of the global batch")
    parser.add_argument("--pixels", type=int, default=256, help="side of an image")
    parser.add_argument("--steps", type=int, default=5, help="timed per mesh and round")
    parser.add_argument("--rounds", type=int, default=2, help="in which all meshes take turns")
    add_out(parser)
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "bench")


def _bench(options: argparse.Namespace) -> None:
    columns = numbers("--columns", options.columns, int)
    bandwidths = numbers("--bandwidths", options.bandwidths, float)
    for each in columns:  # a mesh that cannot be, before anything starts
        sharded_job(each, options.images, options.pixels, options.hosts)
    rows: list[ShardingRow] = []
    profiles = []
    with bench_progress() as progress:
        task = progress.add_task("sharding", total=2 * len(bandwidths))
        for mbps in bandwidths:
            progress.update(task, description=f"{options.hosts} hosts, {mbps:g} Mbit/s")
            with emulated_cell(options.hosts, mbps) as cell:
                workload = max(1, options.images // options.hosts), options.pixels
                measured = calibrate_cell(cell, mbps, [STRATEGY.name], workload)
                resolved = sharded_job(
                    1, options.images, options.pixels, options.hosts
                ).prepared.resolved
                profile = new_profile("emulated", resolved, measured, count_cores())
                profiles.append(profile)
                progress.advance(task)
                lines = _measure(cell, options, columns)
                rows += _rows(profile, options, mbps, lines)
                progress.advance(task)
    content = {
        "machine": MACHINE,
        "rows": [asdict(row) for row in rows],
        "profiles": [profile.model_dump(mode="json") for profile in profiles],
    }
    print("wrote", *results.write_results(options.out, "sharding", content, markdown(rows)))


def _measure(cell: EmulatedCell, options: argparse.Namespace, columns: Sequence[int]) -> list[Line]:
    cluster, folder = cell
    out = folder / "sharding.jsonl"
    arguments = [
        *("--module", "yolo.bench.sharding.worker", "--out", str(out)),
        *("--global-batch", str(options.images), "--pixels", str(options.pixels)),
        *("--steps", str(options.steps), "--rounds", str(options.rounds)),
        *("--columns", *map(str, columns)),
    ]
    processes = cluster.launch(arguments, folder / "hosts")
    cluster.wait(processes, TIMEOUT_SECONDS)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    if len(lines) != len(columns) * options.rounds:
        raise BenchError(f"the hosts ended after {len(lines)} measurements")
    return lines


def _rows(
    profile: ClusterProfile, options: argparse.Namespace, mbps: float, lines: Sequence[Line]
) -> Iterator[ShardingRow]:
    for columns in dict.fromkeys(line["columns"] for line in lines):
        own = [line for line in lines if line["columns"] == columns]
        job = sharded_job(columns, options.images, options.pixels, options.hosts)
        predicted = predict(profile, job.recipe, DATA)
        seconds = tuple(line["step_seconds"] for line in own)
        yield ShardingRow(
            hosts=options.hosts,
            bandwidth_mbps=mbps,
            columns=columns,
            predicted_step_seconds=predicted.step_seconds,
            measured_step_seconds=median(seconds),
            measured_rounds=seconds,
            predicted_sent_bytes=predicted.sent_bytes,
            measured_sent_bytes=median(line["sent_bytes_per_rank_per_step"] for line in own),
            predicted_interface_bytes=predicted.wire_bytes,
            measured_interface_bytes=median(line["wire_bytes_per_rank_per_step"] for line in own),
        )


def markdown(rows: Sequence[ShardingRow]) -> str:
    """Whether each bandwidth's meshes are ranked rightly, then a table."""
    lines = ["# Sharding by sample, by feature and by both", "", f"On {MACHINE}.", ""]
    for (_, mbps), own in results.by_cell(rows):
        predicted, measured = (
            [row.sharding for row in sorted(own, key=lambda row: getattr(row, name))]
            for name in ("predicted_step_seconds", "measured_step_seconds")
        )
        verdict = "as predicted" if predicted == measured else f"predicted: {', '.join(predicted)}"
        lines += [f"{mbps:g} Mbit/s, the fastest first: {', '.join(measured)}; {verdict}.", ""]
    lines += results.markdown_table(COLUMNS, map(_cells, rows))
    return "\n".join(lines) + "\n"


def _cells(row: ShardingRow) -> list[str]:
    step_error = row.predicted_step_seconds / row.measured_step_seconds - 1
    bytes_error = row.predicted_sent_bytes / row.measured_sent_bytes - 1
    return [
        *(str(row.hosts), f"{row.bandwidth_mbps:g}", row.sharding),
        f"{row.hosts // row.columns} x {row.columns}",
        *(f"{row.predicted_step_seconds * 1e3:.0f}", f"{row.measured_step_seconds * 1e3:.0f}"),
        f"{step_error:+.0%}",
        f"{row.predicted_sent_bytes / 1e6:.3f}",
        f"{row.measured_sent_bytes / 1e6:.3f}",
        f"{bytes_error:+.2%}",
    ]


if __name__ == "__main__":
    sys.exit(main())
