"""Is the planner right? Predicted and measured on emulated clusters: `python -m yolo.bench.plan --hosts 2,3,4`.

Some cells (numbers of hosts at a bandwidth) are calibrated, each separately; from them the planner predicts every
strategy in all cells, also in those that are not calibrated.
"""

import argparse
import sys
from collections.abc import Sequence

from yolo.bench.command_line import bench_progress
from yolo.bench.communication.cell import (
    Line,
    calibrate_cell,
    cell_parser,
    cells_of,
    emulated_cell,
    run_cell,
)
from yolo.bench.plan.plan_scores import MEMORY, PlanRow, write_plan
from yolo.calibration.calibrate import add_measurement, new_profile
from yolo.calibration.strategies import CALIBRATED, VARIANTS, Strategy, Workload, chosen
from yolo.calibration.strategy_timing import CLASSES, job_of
from yolo.errors import exit_code_of
from yolo.planner.prediction import Data, Prediction, predict, predict_ddp
from yolo.planner.profile import ClusterProfile
from yolo.recipe.resolve.hardware import count_cores

Cell = tuple[int, float]
"""Hosts, and Mbit/s of their links."""
COMPARED = tuple(
    name for name in (*CALIBRATED, "zero1_reduce") if name not in ("zero2", "zero_one_adam")
)
"""Strategies whose local work a calibration measures; zero1_reduce does that of zero1."""
DATA = Data(images=1000, classes=CLASSES)
"""Only predicted hours depend on the number of images."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate, measure, predict, and write the results; returns the exit code."""
    parser = cell_parser("yolo.bench.plan", __doc__, hosts="2,3,4")
    parser.add_argument(
        "--calibrate",
        default="2:100,2:1000,4:100,4:1000",
        help="cells to calibrate, as HOSTS:MBPS,...",
    )
    parser.add_argument("--images", type=int, default=1, help="per step per rank")
    parser.add_argument("--pixels", type=int, default=192, help="side of an image")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "bench")


def _bench(options: argparse.Namespace) -> None:
    workload = options.images, options.pixels
    pairs = (text.partition(":") for text in options.calibrate.split(","))
    calibrated = [(int(hosts), float(mbps)) for hosts, _, mbps in pairs]
    cells = sorted({*calibrated, *cells_of(options)})
    strategies = chosen(options.strategies, (*COMPARED, *(each.name for each in VARIANTS)))
    known = {strategy.name: strategy for strategy in strategies}
    profile: ClusterProfile | None = None
    lines: list[tuple[Cell, Line]] = []
    with bench_progress() as progress:
        total = (len(cells) + len(calibrated)) * len(strategies)
        task = progress.add_task("plan", total=total)
        for hosts, mbps in cells:
            progress.update(task, description=f"{hosts} hosts, {mbps:g} Mbit/s")
            with emulated_cell(hosts, mbps) as cell:
                if (hosts, mbps) in calibrated:
                    # A strategy's local work is calibrated under the name without its bucket size.
                    names = [
                        name
                        for name in CALIBRATED
                        if any(f"{each.name}_".startswith(f"{name}_") for each in strategies)
                    ]
                    measured = calibrate_cell(cell, mbps, names, workload)
                    resolved = job_of(workload, hosts).prepared.resolved
                    profile = profile or new_profile("emulated", resolved, measured, count_cores())
                    profile = add_measurement(profile, measured)
                    progress.advance(task, len(strategies))
                found = run_cell(
                    cell, strategies, options.steps, workload, lambda: progress.advance(task)
                )
            lines += [((hosts, mbps), line) for line in found if line["strategy"] in known]
    assert profile is not None
    rows = [
        _row(profile, where, line, known[line["strategy"]], where in calibrated)
        for where, line in lines
    ]
    print("wrote", ", ".join(map(str, write_plan(rows, profile, options.out))))


def _row(
    profile: ClusterProfile, cell: Cell, line: Line, strategy: Strategy, is_calibrated: bool
) -> PlanRow:
    hosts, mbps = cell
    predicted = predicted_under(profile, cell, strategy, (line["images"], line["image_size"]))
    memory = predicted.memory
    as_measured = ("step_seconds", "step_seconds_low", "step_seconds_high", *MEMORY)
    return PlanRow(
        strategy=strategy.name,
        label=strategy.label,
        hosts=hosts,
        bandwidth_mbps=mbps,
        calibrated=is_calibrated and strategy.name in COMPARED,
        predicted_step_seconds=predicted.step_seconds,
        predicted_wire_bytes=predicted.sent_bytes,
        measured_wire_bytes=line["sent_bytes_per_rank_per_step"],
        predicted_interface_bytes=predicted.wire_bytes,
        measured_interface_bytes=line["wire_bytes_per_rank_per_step"],
        predicted_parameter_bytes=memory.parameters,
        predicted_gradient_bytes=memory.gradients,
        predicted_optimizer_bytes=memory.optimizer,
        predicted_parts={
            "compute": predicted.compute_seconds,
            "codec": predicted.codec_seconds,
            "exposed": predicted.exposed_seconds,
            "slowest_rank": predicted.straggler_seconds,
        },
        **{f"measured_{name}": line[name] for name in as_measured},
    )


def predicted_under(
    profile: ClusterProfile, cell: Cell, strategy: Strategy, workload: Workload
) -> Prediction:
    """The planner's prediction for a strategy in a cell."""
    hosts, mbps = cell
    here = profile.with_nodes(hosts).with_bandwidth(mbps / 1e3)
    prepared = job_of(workload, hosts).prepared
    recipe = prepared.with_values(*strategy.overrides).resolved.recipe
    if strategy.ddp_bucket_mb:
        return predict_ddp(here, recipe, DATA, strategy.ddp_bucket_mb)
    return predict(here, recipe, DATA)


if __name__ == "__main__":
    sys.exit(main())
