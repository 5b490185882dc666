"""The communication benchmark's results: rows, tables and a figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from yolo.bench import results
from yolo.calibration.strategies import STRATEGIES
from yolo.calibration.strategy_timing import StrategyTiming

MACHINE = results.machine_facts("gloo over emulated links, one rank per host")
EMPHASISED = {
    "zero0": results.INK,
    "zero1": "#8a4fd0",
    "zero3": "#d64550",
    "ddp": "#e8792b",
    "overlapped": "#2a9d6f",
    "powersgd": "#b8860b",
    "onebit_adam": "#2f6fdb",
    "zero_one_adam_local": "#17a2b8",
}
"""Lines in colour; the others are faint, and their figures are in the table."""
DRAWN = ("bandwidth_mbps", "step_seconds", "step_seconds_low", "step_seconds_high")
COLUMNS = (
    *("strategy", "step, ms (quartiles)", "exposed, ms", "MB per step per rank"),
    *("collectives", "against stage 0"),
)


@dataclass(frozen=True, slots=True)
class StrategyRow(StrategyTiming):
    """One strategy at one number of hosts and one bandwidth."""

    hosts: int
    bandwidth_mbps: float
    compute_seconds: float
    """Per step without any exchange, all hosts computing at once: median."""
    exposed_communication_seconds: float
    """step_seconds - compute_seconds: added by the exchange, its packing and waiting; noise can make it negative."""


def write_rows(rows: Sequence[StrategyRow], folder: Path) -> list[Path]:
    """Write communication.json, .md and .png; returns the files."""
    content = {"machine": MACHINE, "rows": [asdict(row) for row in rows]}
    tables = markdown(rows, MACHINE)
    return results.write_results(folder, "communication", content, tables, figure(rows))


def markdown(rows: Sequence[StrategyRow], machine: str) -> str:
    """One table per number of hosts and bandwidth: milliseconds, ratios to DeepSpeed's stage 0, bytes."""
    lines = [f"Measured on {machine}.", ""]
    for (hosts, bandwidth), cell in results.by_cell(rows):
        base = next((row for row in cell if row.strategy == "zero0"), None)
        first = cell[0]
        lines += [
            f"### {hosts} hosts, {bandwidth:g} Mbit/s",
            "",
            f"yolov5n, {first.images} x {first.image_size} px per rank; computing without exchange takes "
            f"{first.compute_seconds * 1e3:.0f} ms per step.",
            "",
            *results.markdown_table(COLUMNS, [_cells(row, base) for row in cell]),
            "",
        ]
    return "\n".join(lines)


def _cells(row: StrategyRow, base: StrategyRow | None) -> list[str]:
    return [
        STRATEGIES[row.strategy].label,
        f"{row.step_seconds * 1e3:.0f} ({row.step_seconds_low * 1e3:.0f} to {row.step_seconds_high * 1e3:.0f})",
        f"{row.exposed_communication_seconds * 1e3:.0f}",
        f"{row.wire_bytes_per_rank_per_step / 1e6:.3f}",
        f"{row.collectives_per_step:.3g}",
        "" if base is None else f"{base.step_seconds / row.step_seconds:.2f}x",
    ]


def figure(rows: Sequence[StrategyRow]) -> Figure:
    """Step time over bandwidth, both logarithmic: one panel per number of hosts, one line per strategy."""
    hosts = sorted({row.hosts for row in rows})
    drawing = Figure(figsize=(1.5 + 5.2 * len(hosts), 4.8), layout="constrained")
    panels = drawing.subplots(1, len(hosts), sharey=True, squeeze=False)[0]
    for axes, number in zip(panels, hosts, strict=True):
        results.style_axes(axes, f"{number} hosts", grid="both")
        _draw_panel(axes, [row for row in rows if row.hosts == number])
    panels[0].set_ylabel("seconds per step")
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return drawing


def _draw_panel(axes: Axes, rows: Sequence[StrategyRow]) -> None:
    faint_label: str | None = "others (see the table)"
    for name, strategy in STRATEGIES.items():
        own = sorted((r for r in rows if r.strategy == name), key=lambda row: row.bandwidth_mbps)
        if not own:
            continue
        x, y, low, high = zip(*map(attrgetter(*DRAWN), own), strict=True)
        if name in EMPHASISED:
            axes.plot(x, y, "o-", color=EMPHASISED[name], lw=1.8, ms=4, label=strategy.label)
            axes.fill_between(x, low, high, color=EMPHASISED[name], alpha=0.15, lw=0)
        else:
            axes.plot(x, y, "-", color=results.FAINT, lw=1.0, zorder=1, label=faint_label)
            faint_label = None
    computing = {row.bandwidth_mbps: row.compute_seconds for row in rows}
    ticks = sorted(computing)
    seconds = [computing[each] for each in ticks]
    axes.plot(ticks, seconds, "--", color=results.INK, lw=1.0, label="computing only")
    axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlabel("Mbit/s per link")
