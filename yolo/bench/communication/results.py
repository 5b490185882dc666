"""The benchmark's results: rows, a table for people, and a figure."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from yolo.calibration.strategies import STRATEGIES

DOTS_PER_INCH = 130
FAINT = "#c3cad3"
EMPHASISED = {
    "zero0": "#1f2933",
    "zero1": "#8a4fd0",
    "zero3": "#d64550",
    "ddp": "#e8792b",
    "overlapped": "#2a9d6f",
    "powersgd": "#b8860b",
    "onebit_adam": "#2f6fdb",
    "zero_one_adam_local": "#17a2b8",
}
"""The lines that tell the story; the others are drawn faint, and stand in the table."""


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """One strategy at one number of hosts and one bandwidth."""

    strategy: str
    hosts: int
    bandwidth_mbps: float
    images: int
    """A rank and step."""
    image_size: int
    compute_seconds: float
    """A step without any exchange, all hosts computing at once: median."""
    step_seconds: float
    """Median."""
    step_seconds_low: float
    """First quartile."""
    step_seconds_high: float
    """Third quartile."""
    exposed_communication_seconds: float
    """step_seconds - compute_seconds: what the exchange, its packing and its waiting added; noise can make it negative."""
    wire_bytes_per_rank_per_step: float
    """Sent by a host's interface, headers and acknowledgements included."""
    sent_bytes_per_rank_per_step: float
    """The same without headers and acknowledgements."""
    metered_bytes_per_rank_per_step: float
    collectives_per_step: float
    parameter_bytes: int
    """In a rank's memory."""
    gradient_bytes: int
    optimizer_bytes: int


def write_results(rows: Sequence[StrategyRow], folder: Path, machine: str) -> list[Path]:
    """Write communication.json, .md and .png; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json = folder / "communication.json"
    content = {"machine": machine, "rows": [asdict(row) for row in rows]}
    as_json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    table = folder / "communication.md"
    table.write_text(markdown(rows, machine), encoding="utf-8")
    picture = folder / "communication.png"
    figure(rows).savefig(picture, dpi=DOTS_PER_INCH)
    return [as_json, table, picture]


def read_rows(path: Path) -> list[StrategyRow]:
    """The rows of a communication.json."""
    return [StrategyRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def markdown(rows: Sequence[StrategyRow], machine: str) -> str:
    """A table for each number of hosts and bandwidth: milliseconds, ratios to DeepSpeed's stage 0, bytes."""
    lines = [f"Measured on {machine}.", ""]
    for hosts, bandwidth in _cells(rows):
        cell = [row for row in rows if (row.hosts, row.bandwidth_mbps) == (hosts, bandwidth)]
        base = next((row for row in cell if row.strategy == "zero0"), None)
        first = cell[0]
        lines += [
            f"### {hosts} hosts, {bandwidth:g} Mbit/s",
            "",
            f"yolov5n, {first.images} x {first.image_size} px a rank; computing alone takes "
            f"{first.compute_seconds * 1e3:.0f} ms a step.",
            "",
            "| strategy | step, ms (quartiles) | exposed, ms | MB a step and rank | collectives | against stage 0 |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_line(row, base) for row in cell]
        lines.append("")
    return "\n".join(lines)


def _line(row: StrategyRow, base: StrategyRow | None) -> str:
    ratio = "" if base is None else f"{base.step_seconds / row.step_seconds:.2f}x"
    return (
        f"| {STRATEGIES[row.strategy].label} | {row.step_seconds * 1e3:.0f} "
        f"({row.step_seconds_low * 1e3:.0f} to {row.step_seconds_high * 1e3:.0f}) "
        f"| {row.exposed_communication_seconds * 1e3:.0f} | {row.wire_bytes_per_rank_per_step / 1e6:.3f} "
        f"| {row.collectives_per_step:.3g} | {ratio} |"
    )


def figure(rows: Sequence[StrategyRow]) -> Figure:
    """Step time over bandwidth, both logarithmic: a panel for each number of hosts, a line for each strategy."""
    hosts = sorted({row.hosts for row in rows})
    drawing = Figure(figsize=(1.5 + 5.2 * len(hosts), 4.8), layout="constrained")
    panels = drawing.subplots(1, len(hosts), sharey=True, squeeze=False)[0]
    for axes, number in zip(panels, hosts, strict=True):
        _panel(axes, [row for row in rows if row.hosts == number], number)
    panels[0].set_ylabel("seconds a step")
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return drawing


def _panel(axes: Axes, rows: Sequence[StrategyRow], hosts: int) -> None:
    bandwidths = sorted({row.bandwidth_mbps for row in rows})
    faint_is_named = False
    for name, strategy in STRATEGIES.items():
        own = sorted((r for r in rows if r.strategy == name), key=lambda row: row.bandwidth_mbps)
        if not own:
            continue
        x = [row.bandwidth_mbps for row in own]
        y = [row.step_seconds for row in own]
        if name in EMPHASISED:
            axes.plot(x, y, "o-", color=EMPHASISED[name], lw=1.8, ms=4, label=strategy.label)
            low = [row.step_seconds_low for row in own]
            high = [row.step_seconds_high for row in own]
            axes.fill_between(x, low, high, color=EMPHASISED[name], alpha=0.15, lw=0)
        else:
            label = None if faint_is_named else "others (see the table)"
            faint_is_named = True
            axes.plot(x, y, "-", color=FAINT, lw=1.0, zorder=1, label=label)
    computing = {row.bandwidth_mbps: row.compute_seconds for row in rows}
    axes.plot(
        bandwidths,
        [computing[each] for each in bandwidths],
        "--",
        color="#1f2933",
        lw=1.0,
        label="computing alone",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(bandwidths, [f"{each:g}" for each in bandwidths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlabel("Mbit/s of each link")
    axes.set_title(f"{hosts} hosts", fontsize=11, loc="left")
    axes.grid(which="both", color="#edf0f3", lw=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _cells(rows: Sequence[StrategyRow]) -> list[tuple[int, float]]:
    return sorted({(row.hosts, row.bandwidth_mbps) for row in rows})
