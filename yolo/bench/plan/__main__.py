"""Is the planner right? Predicted and measured on emulated clusters: `python -m yolo.bench.plan --hosts 2,3,4`.

Some cells (numbers of hosts at a bandwidth) are calibrated, each for itself; from them the planner predicts every
strategy in all cells, those that nobody calibrated too.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo.bench.communication.cell import Line, machine_words, numbers, run_cell
from yolo.bench.plan.results import PlanRow, write_plan_results
from yolo.bench.progress import bench_progress
from yolo.calibration.calibrate import MODULE as CALIBRATION
from yolo.calibration.calibrate import add_measurement, new_profile
from yolo.calibration.strategies import COMPUTE, STRATEGIES, VARIANTS, Strategy, Workload
from yolo.calibration.strategy_timing import CLASSES, RECIPE, job_of
from yolo.calibration.worker import ALL_STRATEGIES
from yolo.emulation import link_check as gate
from yolo.emulation.cluster import EmulatedCluster
from yolo.errors import exit_code_of
from yolo.planner.prediction import Data, Prediction, predict, predict_ddp
from yolo.planner.profile import ClusterProfile, Measurement
from yolo.recipe import prepare
from yolo.recipe.resolve.hardware import count_cores

Cell = tuple[int, float]
"""Hosts, and Mbit/s of their links."""
COMPARED = (
    *("zero0", "zero0_bf16", "zero1", "zero1_reduce", "zero3_persistent", "ddp", "overlapped"),
    *("overlapped_bf16", "powersgd", "onebit_adam", "onebit_lamb", "zero_one_adam_local"),
    *("local_steps", "local_steps_one_bit"),
)
"""Strategies whose own work a calibration measures."""
DATA = Data(images=1000, classes=CLASSES)
"""Only hours depend on the images."""
CALIBRATION_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """All cells."""

    profile: ClusterProfile
    lines: dict[Cell, list[Line]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate, measure, predict, and write the results; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.plan", description=__doc__)
    parser.add_argument("--hosts", type=numbers(int), default="2,3,4", help="such as 2,3,4")
    parser.add_argument(
        "--bandwidths", type=numbers(float), default="100,300,1000", help="Mbit/s of each link"
    )
    parser.add_argument(
        "--calibrate",
        default="2:100,2:1000,4:100,4:1000",
        help="cells that are calibrated, as HOSTS:MBPS,...",
    )
    parser.add_argument("--strategies", default="all", help="names, or all that are compared")
    parser.add_argument("--steps", type=int, default=10, help="timed for each strategy")
    parser.add_argument("--images", type=int, default=1, help="a rank and step")
    parser.add_argument("--pixels", type=int, default=192, help="side of an image")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "bench")


def _bench(options: argparse.Namespace) -> None:
    workload = options.images, options.pixels
    calibrated = [_cell_of(text) for text in options.calibrate.split(",")]
    cells = sorted(
        {*calibrated, *((n, mbps) for n in options.hosts for mbps in options.bandwidths)}
    )
    known = {**{name: STRATEGIES[name] for name in COMPARED}, **{v.name: v for v in VARIANTS}}
    names = list(known) if options.strategies == "all" else options.strategies.split(",")
    strategies = [known[name] for name in names]
    measured = _measure(cells, calibrated, strategies, workload, options.steps)
    rows = [
        _row(measured.profile, cell, line, known[line["strategy"]], cell in calibrated, workload)
        for cell, lines in measured.lines.items()
        for line in lines
        if line["strategy"] != COMPUTE.name
    ]
    files = write_plan_results(rows, measured.profile, options.out, machine_words())
    print("wrote", ", ".join(map(str, files)))


def _cell_of(text: str) -> Cell:
    hosts, _, mbps = text.partition(":")
    return int(hosts), float(mbps)


def _measure(
    cells: Sequence[Cell],
    calibrated: Sequence[Cell],
    strategies: Sequence[Strategy],
    workload: Workload,
    steps: int,
) -> MeasuredStep:
    profile: ClusterProfile | None = None
    lines: dict[Cell, list[Line]] = {}
    with bench_progress() as progress:
        total = len(cells) * len(strategies) + len(calibrated) * len(strategies)
        task = progress.add_task("plan", total=total)
        for hosts, mbps in cells:
            with (
                EmulatedCluster(hosts, mbps) as cluster,
                tempfile.TemporaryDirectory(prefix="yolo-bench-") as folder,
            ):
                progress.update(task, description=f"{hosts} hosts, {mbps:g} Mbit/s")
                gate.check(cluster)
                if (hosts, mbps) in calibrated:
                    found = _calibration(cluster, mbps, strategies, workload, Path(folder))
                    resolved = prepare(RECIPE, job_of(workload, hosts).overrides, hosts, 1).resolved
                    profile = add_measurement(
                        profile or new_profile("emulated", resolved, found, count_cores()), found
                    )
                    progress.advance(task, len(strategies))
                lines[hosts, mbps] = run_cell(
                    cluster,
                    strategies,
                    steps,
                    workload,
                    Path(folder),
                    lambda: progress.advance(task),
                )
    assert profile is not None
    return MeasuredStep(profile, lines)


def _calibration(
    cluster: EmulatedCluster,
    mbps: float,
    strategies: Sequence[Strategy],
    workload: Workload,
    folder: Path,
) -> Measurement:
    out = folder / "calibration.json"
    job = job_of(workload, len(cluster.hosts))
    names = [name for name in ALL_STRATEGIES if _is_of(name, strategies)]
    arguments = [
        *("--module", CALIBRATION, "--recipe", RECIPE, "--classes", str(CLASSES)),
        *("--strategies", ",".join(names)),
        *("--bandwidth-gbps", str(mbps / 1e3), "--out", str(out), *job.overrides),
    ]
    cluster.wait(cluster.launch(arguments, folder / "calibration"), CALIBRATION_SECONDS)
    return Measurement.model_validate_json(out.read_text())


def _is_of(name: str, strategies: Sequence[Strategy]) -> bool:
    """Whether a strategy's own work is that of one of these, which may have other buckets."""
    return any(f"{each.name}_".startswith(f"{name}_") for each in strategies)


def _row(
    profile: ClusterProfile,
    cell: Cell,
    line: Line,
    strategy: Strategy,
    is_calibrated: bool,
    workload: Workload,
) -> PlanRow:
    hosts, mbps = cell
    predicted = predicted_under(profile, cell, strategy, workload)
    memory = predicted.memory
    return PlanRow(
        strategy=strategy.name,
        label=strategy.label,
        hosts=hosts,
        bandwidth_mbps=mbps,
        calibrated=is_calibrated and strategy.name in COMPARED,
        predicted_step_seconds=predicted.step_seconds,
        measured_step_seconds=line["step_seconds"],
        measured_step_seconds_low=line["step_seconds_low"],
        measured_step_seconds_high=line["step_seconds_high"],
        predicted_wire_bytes=predicted.sent_bytes,
        measured_wire_bytes=line["sent_bytes_per_rank_per_step"],
        predicted_interface_bytes=predicted.wire_bytes,
        measured_interface_bytes=line["wire_bytes_per_rank_per_step"],
        predicted_parameter_bytes=memory.parameters,
        measured_parameter_bytes=line["parameter_bytes"],
        predicted_gradient_bytes=memory.gradients,
        measured_gradient_bytes=line["gradient_bytes"],
        predicted_optimizer_bytes=memory.optimizer,
        measured_optimizer_bytes=line["optimizer_bytes"],
        predicted_parts=_parts(predicted),
    )


def _parts(predicted: Prediction) -> dict[str, float]:
    return {
        "compute": predicted.compute_seconds,
        "codec": predicted.codec_seconds,
        "exposed": predicted.exposed_seconds,
        "slowest_rank": predicted.straggler_seconds,
    }


def predicted_under(
    profile: ClusterProfile, cell: Cell, strategy: Strategy, workload: Workload
) -> Prediction:
    """What the planner says of a strategy in a cell."""
    hosts, mbps = cell
    here = profile.with_nodes(hosts).with_bandwidth(mbps / 1e3)
    overrides = [*job_of(workload, hosts).overrides, *strategy.overrides]
    recipe = prepare(RECIPE, overrides, hosts, 1).resolved.recipe
    if strategy.ddp_bucket_mb:
        return predict_ddp(here, recipe, DATA, strategy.ddp_bucket_mb)
    return predict(here, recipe, DATA)


def profile_in(path: Path) -> ClusterProfile:
    """The profile of a plan.json."""
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    return ClusterProfile.model_validate_json(json.dumps(content["profile"]))


if __name__ == "__main__":
    sys.exit(main())
