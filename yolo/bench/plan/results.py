"""What the planner foretold and what was measured: rows, scores, a table for people, and a figure."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure
from scipy.stats import kendalltau

from yolo.planner.profile import ClusterProfile

DOTS_PER_INCH = 130


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One strategy in one cell; seconds and bytes are of a step and rank."""

    strategy: str
    label: str
    hosts: int
    bandwidth_mbps: float
    calibrated: bool
    """Whether this cell was calibrated, and this strategy's own work in it."""
    predicted_step_seconds: float
    measured_step_seconds: float
    """Median."""
    measured_step_seconds_low: float
    """First quartile."""
    measured_step_seconds_high: float
    """Third quartile."""
    predicted_wire_bytes: float
    measured_wire_bytes: float
    """Handed to TCP, by the kernel's count for each connection. How many frames only acknowledge depends on how busy the
    processors are, and no formula knows it."""
    predicted_interface_bytes: float
    measured_interface_bytes: float
    """Headers and acknowledgements included."""
    predicted_parameter_bytes: float
    measured_parameter_bytes: float
    """Of live tensors, on the rank that has most."""
    predicted_gradient_bytes: float
    measured_gradient_bytes: float
    predicted_optimizer_bytes: float
    measured_optimizer_bytes: float
    predicted_parts: dict[str, float]
    """Seconds of the predicted step."""

    def error(self, what: str) -> float:
        """Signed, of `step_seconds`, `wire_bytes` and the like, as a share of what was measured."""
        predicted, measured = getattr(self, f"predicted_{what}"), getattr(self, f"measured_{what}")
        return float(predicted / measured - 1) if measured else 0.0


@dataclass(frozen=True, slots=True)
class CellScore:
    """How well strategies are ranked in one cell."""

    hosts: int
    bandwidth_mbps: float
    kendall_tau: float
    first: str
    """What the planner ranks first."""
    fastest: str
    """What was measured to be fastest."""
    regret: float
    """By how much the first is slower than the fastest."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Absolute errors, and rankings."""

    calibrated_step_median: float
    calibrated_step_p95: float
    foretold_step_median: float
    """On bandwidths, bucket sizes and numbers of hosts that were not calibrated."""
    foretold_step_p95: float
    wire_bytes_median: float
    wire_bytes_largest: float
    interface_bytes_largest: float
    """Headers and acknowledgements included."""
    memory_largest: float
    """Of parameters, gradients and the optimizer."""
    cells: list[CellScore]


MEMORY = ("parameter_bytes", "gradient_bytes", "optimizer_bytes")


def scores(rows: Sequence[PlanRow]) -> Scores:
    """Of all rows."""
    calibrated = [abs(row.error("step_seconds")) for row in rows if row.calibrated]
    foretold = [abs(row.error("step_seconds")) for row in rows if not row.calibrated]
    wire = [abs(row.error("wire_bytes")) for row in rows]
    memory = [abs(row.error(what)) for row in rows for what in MEMORY]
    return Scores(
        calibrated_step_median=_median(calibrated),
        calibrated_step_p95=_p95(calibrated),
        foretold_step_median=_median(foretold),
        foretold_step_p95=_p95(foretold),
        wire_bytes_median=_median(wire),
        wire_bytes_largest=max(wire),
        interface_bytes_largest=max(abs(row.error("interface_bytes")) for row in rows),
        memory_largest=max(memory),
        cells=[_cell_score(rows, *cell) for cell in _cells(rows)],
    )


def _median(errors: Sequence[float]) -> float:
    return statistics.median(errors) if errors else 0.0


def _p95(errors: Sequence[float]) -> float:
    return sorted(errors)[math.ceil(0.95 * len(errors)) - 1] if errors else 0.0


def _cells(rows: Sequence[PlanRow]) -> list[tuple[int, float]]:
    return sorted({(row.hosts, row.bandwidth_mbps) for row in rows})


def _cell_score(rows: Sequence[PlanRow], hosts: int, mbps: float) -> CellScore:
    here = [row for row in rows if (row.hosts, row.bandwidth_mbps) == (hosts, mbps)]
    first = min(here, key=lambda row: row.predicted_step_seconds)
    fastest = min(here, key=lambda row: row.measured_step_seconds)
    tau = kendalltau(
        [row.predicted_step_seconds for row in here], [row.measured_step_seconds for row in here]
    ).statistic
    return CellScore(
        hosts=hosts,
        bandwidth_mbps=mbps,
        kendall_tau=1.0 if math.isnan(tau) else float(tau),
        first=first.strategy,
        fastest=fastest.strategy,
        regret=first.measured_step_seconds / fastest.measured_step_seconds - 1,
    )


def write_plan_results(
    rows: Sequence[PlanRow], profile: ClusterProfile, folder: Path, machine: str
) -> list[Path]:
    """Write plan.json, .md and .png; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = scores(rows)
    as_json = folder / "plan.json"
    content = {
        "machine": machine,
        "scores": asdict(found),
        "rows": [asdict(row) for row in rows],
        "profile": profile.model_dump(mode="json"),
    }
    as_json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    table = folder / "plan.md"
    table.write_text(markdown(rows, found, machine), encoding="utf-8")
    picture = folder / "plan.png"
    figure(rows).savefig(picture, dpi=DOTS_PER_INCH)
    return [as_json, table, picture]


def read_plan_rows(path: Path) -> list[PlanRow]:
    """The rows of a plan.json."""
    return [PlanRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def markdown(rows: Sequence[PlanRow], found: Scores, machine: str) -> str:
    """Scores, then a table for each cell."""
    lines = [
        "# What the planner foretold, and what was measured",
        "",
        f"On {machine}.",
        "",
        "| | median error | 95% of errors are below |",
        "|---|---|---|",
        f"| step time, calibrated cells | {found.calibrated_step_median:.1%} | {found.calibrated_step_p95:.1%} |",
        "| step time, other bandwidths, bucket sizes and numbers of hosts "
        f"| {found.foretold_step_median:.1%} | {found.foretold_step_p95:.1%} |",
        f"| bytes sent | {found.wire_bytes_median:.2%} | largest {found.wire_bytes_largest:.2%} |",
        f"| the same with headers and acknowledgements | | largest {found.interface_bytes_largest:.2%} |",
        f"| parameters, gradients, optimizer in memory | | largest {found.memory_largest:.1%} |",
        "",
        "| hosts | Mbit/s | ranked first | fastest | first is slower by | Kendall's tau |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cell.hosts} | {cell.bandwidth_mbps:g} | {cell.first} | {cell.fastest} | {cell.regret:.1%} | {cell.kendall_tau:.2f} |"
        for cell in found.cells
    ]
    for hosts, mbps in _cells(rows):
        here = [row for row in rows if (row.hosts, row.bandwidth_mbps) == (hosts, mbps)]
        lines += [
            "",
            f"## {hosts} hosts, {mbps:g} Mbit/s",
            "",
            "| strategy | predicted ms | measured ms (quartiles) | error | MB sent, error | calibrated |",
            "|---|---|---|---|---|---|",
            *(_line(row) for row in sorted(here, key=lambda row: row.predicted_step_seconds)),
        ]
    return "\n".join(lines) + "\n"


def _line(row: PlanRow) -> str:
    return (
        f"| {row.label} | {row.predicted_step_seconds * 1e3:.1f} | {row.measured_step_seconds * 1e3:.1f} "
        f"({row.measured_step_seconds_low * 1e3:.1f} to {row.measured_step_seconds_high * 1e3:.1f}) "
        f"| {row.error('step_seconds'):+.1%} | {row.measured_wire_bytes / 1e6:.3f}, {row.error('wire_bytes'):+.2%} "
        f"| {'yes' if row.calibrated else 'no'} |"
    )


def figure(rows: Sequence[PlanRow]) -> Figure:
    """Predicted over measured step time, and over bytes: what lies on the diagonal was foretold."""
    drawing = Figure(figsize=(10.5, 5.0), layout="constrained")
    seconds, wire = drawing.subplots(1, 2)
    panels: tuple[tuple[str, str, Callable[[PlanRow], float], Callable[[PlanRow], float]], ...] = (
        (
            "a step, milliseconds",
            "seconds",
            lambda row: row.measured_step_seconds * 1e3,
            lambda row: row.predicted_step_seconds * 1e3,
        ),
        (
            "sent by a rank in a step, MB",
            "bytes",
            lambda row: row.measured_wire_bytes / 1e6,
            lambda row: row.predicted_wire_bytes / 1e6,
        ),
    )
    for axes, (title, _, measured, predicted) in zip((seconds, wire), panels, strict=True):
        for is_calibrated, colour, label in (
            (True, "#2f6fdb", "calibrated"),
            (False, "#e8792b", "foretold: another bandwidth, bucket or number of hosts"),
        ):
            some = [row for row in rows if row.calibrated is is_calibrated]
            axes.plot(
                [measured(row) for row in some],
                [predicted(row) for row in some],
                "o",
                color=colour,
                ms=4.5,
                alpha=0.75,
                mew=0,
                label=label,
            )
        ends = [min(map(measured, rows)) * 0.8, max(map(measured, rows)) * 1.25]
        axes.plot(ends, ends, color="#1f2933", lw=0.9)
        axes.fill_between(
            ends,
            [e * 0.9 for e in ends],
            [e * 1.1 for e in ends],
            color="#1f2933",
            alpha=0.08,
            lw=0,
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("measured")
        axes.set_ylabel("predicted")
        axes.set_title(title, fontsize=11, loc="left")
        axes.grid(color="#edf0f3", lw=0.8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    seconds.legend(frameon=False, fontsize=9, loc="upper left")
    return drawing
