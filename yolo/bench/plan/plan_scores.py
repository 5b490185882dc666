"""Predicted and measured steps: rows, scores, tables and a figure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

from matplotlib.figure import Figure
from scipy.stats import kendalltau

from yolo.bench import results
from yolo.bench.communication.strategy_rows import MACHINE
from yolo.planner.profile import ClusterProfile

MEMORY = ("parameter_bytes", "gradient_bytes", "optimizer_bytes")
SCORE_COLUMNS = ("", "median error", "95% of errors are below")
CELL_COLUMNS = ("hosts", "Mbit/s", "ranked first", "fastest", "first is slower by", "Kendall's tau")
ROW_COLUMNS = (
    *("strategy", "predicted ms", "measured ms (quartiles)", "error", "MB sent, error"),
    "calibrated",
)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One strategy in one cell; seconds and bytes are per step per rank."""

    strategy: str
    label: str
    hosts: int
    bandwidth_mbps: float
    calibrated: bool
    """Whether this cell was calibrated, and this strategy's local work in it."""
    predicted_step_seconds: float
    measured_step_seconds: float
    """Median."""
    measured_step_seconds_low: float
    """First quartile."""
    measured_step_seconds_high: float
    """Third quartile."""
    predicted_wire_bytes: float
    measured_wire_bytes: float
    """Passed to TCP, by the kernel's count per connection. The number of frames that only acknowledge depends on how busy
    the processors are; no formula predicts it."""
    predicted_interface_bytes: float
    measured_interface_bytes: float
    """Headers and acknowledgements included."""
    predicted_parameter_bytes: float
    measured_parameter_bytes: float
    """Live tensors, on the rank that has most."""
    predicted_gradient_bytes: float
    measured_gradient_bytes: float
    predicted_optimizer_bytes: float
    measured_optimizer_bytes: float
    predicted_parts: dict[str, float]
    """Seconds of the predicted step."""

    def error(self, what: str) -> float:
        """Signed error of `step_seconds`, `wire_bytes` and the like, as a share of the measured value."""
        predicted, measured = getattr(self, f"predicted_{what}"), getattr(self, f"measured_{what}")
        return float(predicted / measured - 1) if measured else 0.0


@dataclass(frozen=True, slots=True)
class CellScore:
    """How well strategies are ranked in one cell."""

    hosts: int
    bandwidth_mbps: float
    kendall_tau: float
    first: str
    """Ranked first by the planner."""
    fastest: str
    """Measured to be fastest."""
    regret: float
    """By how much the first is slower than the fastest."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Absolute errors, and rankings."""

    calibrated_step_median: float
    calibrated_step_p95: float
    foretold_step_median: float
    """For bandwidths, bucket sizes and numbers of hosts that were not calibrated."""
    foretold_step_p95: float
    wire_bytes_median: float
    wire_bytes_largest: float
    interface_bytes_largest: float
    """Headers and acknowledgements included."""
    memory_largest: float
    """Over parameters, gradients and the optimizer."""
    cells: list[CellScore]


def scores(rows: Sequence[PlanRow]) -> Scores:
    """Score all rows."""
    (known, known_p95), (unknown, unknown_p95) = (
        _median_and_p95([row.error("step_seconds") for row in rows if row.calibrated is calibrated])
        for calibrated in (True, False)
    )
    wire = [abs(row.error("wire_bytes")) for row in rows]
    return Scores(
        calibrated_step_median=known,
        calibrated_step_p95=known_p95,
        foretold_step_median=unknown,
        foretold_step_p95=unknown_p95,
        wire_bytes_median=statistics.median(wire),
        wire_bytes_largest=max(wire),
        interface_bytes_largest=max(abs(row.error("interface_bytes")) for row in rows),
        memory_largest=max(abs(row.error(what)) for row in rows for what in MEMORY),
        cells=[_cell_score(*cell, own) for cell, own in results.by_cell(rows)],
    )


def _median_and_p95(errors: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile of the absolute errors; 0 if there are none."""
    ordered = sorted(map(abs, errors)) or [0.0]
    return statistics.median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1]


def _cell_score(hosts: int, mbps: float, rows: Sequence[PlanRow]) -> CellScore:
    predicted, measured = map(attrgetter, ("predicted_step_seconds", "measured_step_seconds"))
    first, fastest = min(rows, key=predicted), min(rows, key=measured)
    tau = kendalltau([*map(predicted, rows)], [*map(measured, rows)]).statistic
    return CellScore(
        hosts=hosts,
        bandwidth_mbps=mbps,
        kendall_tau=1.0 if math.isnan(tau) else float(tau),
        first=first.strategy,
        fastest=fastest.strategy,
        regret=first.measured_step_seconds / fastest.measured_step_seconds - 1,
    )


def write_plan(rows: Sequence[PlanRow], profile: ClusterProfile, folder: Path) -> list[Path]:
    """Write plan.json, .md and .png; returns the files."""
    found = scores(rows)
    content = {
        "machine": MACHINE,
        "scores": asdict(found),
        "rows": [asdict(row) for row in rows],
        "profile": profile.model_dump(mode="json"),
    }
    tables = markdown(rows, found)
    return results.write_results(folder, "plan", content, tables, figure(rows))


def markdown(rows: Sequence[PlanRow], found: Scores) -> str:
    """Scores, then one table per cell."""
    calibrated = f"{found.calibrated_step_median:.1%}", f"{found.calibrated_step_p95:.1%}"
    predicted = f"{found.foretold_step_median:.1%}", f"{found.foretold_step_p95:.1%}"
    interface = f"largest {found.interface_bytes_largest:.2%}"
    sums = (
        ("step time, calibrated cells", *calibrated),
        ("step time, other bandwidths, bucket sizes and numbers of hosts", *predicted),
        ("bytes sent", f"{found.wire_bytes_median:.2%}", f"largest {found.wire_bytes_largest:.2%}"),
        ("the same with headers and acknowledgements", "", interface),
        ("parameters, gradients, optimizer in memory", "", f"largest {found.memory_largest:.1%}"),
    )
    cells = [
        (
            *(each.hosts, f"{each.bandwidth_mbps:g}", each.first, each.fastest),
            *(f"{each.regret:.1%}", f"{each.kendall_tau:.2f}"),
        )
        for each in found.cells
    ]
    lines = [
        *("# Predicted and measured", "", f"On {MACHINE}.", ""),
        *results.markdown_table(SCORE_COLUMNS, sums),
        "",
        *results.markdown_table(CELL_COLUMNS, cells),
    ]
    for (hosts, mbps), own in results.by_cell(rows):
        ranked = sorted(own, key=lambda row: row.predicted_step_seconds)
        lines += ["", f"## {hosts} hosts, {mbps:g} Mbit/s", ""]
        lines += results.markdown_table(ROW_COLUMNS, map(_cells, ranked))
    return "\n".join(lines) + "\n"


def _cells(row: PlanRow) -> list[str]:
    low, high = row.measured_step_seconds_low, row.measured_step_seconds_high
    return [
        row.label,
        f"{row.predicted_step_seconds * 1e3:.1f}",
        f"{row.measured_step_seconds * 1e3:.1f} ({low * 1e3:.1f} to {high * 1e3:.1f})",
        f"{row.error('step_seconds'):+.1%}",
        f"{row.measured_wire_bytes / 1e6:.3f}, {row.error('wire_bytes'):+.2%}",
        "yes" if row.calibrated else "no",
    ]


def figure(rows: Sequence[PlanRow]) -> Figure:
    """Predicted over measured step time, and the same for bytes; an exact prediction is on the diagonal."""
    drawing = Figure(figsize=(10.5, 5.0), layout="constrained")
    panels = drawing.subplots(1, 2)
    for axes, title, what, scale in (
        (panels[0], "milliseconds per step", "step_seconds", 1e3),
        (panels[1], "MB sent per step per rank", "wire_bytes", 1e-6),
    ):
        for is_calibrated, colour, label in (
            (True, "#2f6fdb", "calibrated"),
            (False, "#e8792b", "not calibrated: another bandwidth, bucket or number of hosts"),
        ):
            own = [row for row in rows if row.calibrated is is_calibrated]
            x, y = (
                [getattr(row, f"{side}_{what}") * scale for row in own]
                for side in ("measured", "predicted")
            )
            axes.plot(x, y, "o", color=colour, ms=4.5, alpha=0.75, mew=0, label=label)
        measured = [getattr(row, f"measured_{what}") * scale for row in rows]
        ends = [min(measured) * 0.8, max(measured) * 1.25]
        axes.plot(ends, ends, color=results.INK, lw=0.9)
        low, high = [end * 0.9 for end in ends], [end * 1.1 for end in ends]
        axes.fill_between(ends, low, high, color=results.INK, alpha=0.08, lw=0)
        axes.set_xlabel("measured")
        axes.set_ylabel("predicted")
        results.style_axes(axes, title)
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    return drawing
