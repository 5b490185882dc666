"""Draw `trade.svg`, the table of strategies in strategies.md: what a faster step costs in AP."""

import re
from pathlib import Path

from matplotlib import rcParams
from matplotlib.figure import Figure

from yolo.planner.accuracy import LOSS_BOUND

DOCS = Path(__file__).parent
INK, PALE = "#1f2933", "#8a94a0"
PLACES = {
    "stage 0": (-8, -14),
    "overlapped": (8, 12),
    "overlapped, bf16": (8, 14),
    "1-bit LAMB": (8, 14),
    "1-bit Adam": (8, -4),
    "local steps, every 8": (-8, -14),
    "local steps, 1 bit, every 8": (-8, 10),
    "0/1 Adam": (8, -10),
    "PowerSGD": (-8, -8),
}
"""Where names stand, in points from their mark, if not to its right."""


def trade_rows() -> list[tuple[str, float, float, float]]:
    """Name, MB per step per rank, times as fast as stage 0, and AP, of the table in strategies.md."""
    rows = []
    for line in (DOCS / "strategies.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"[\d.]+", cells[1]):
            name = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cells[0])
            rows.append((name, *map(float, cells[1:])))
    return rows


def trade() -> Figure:
    """What a faster step costs in AP."""
    rows = trade_rows()
    drawing = Figure(figsize=(8, 4.4), layout="constrained")
    axes = drawing.subplots()
    reference = rows[0][3]
    axes.axhline(reference, color=PALE, lw=0.8, ls=":")
    axes.axhspan(reference - LOSS_BOUND, reference, color=PALE, alpha=0.15, lw=0)
    for name, megabytes, speed, ap in rows:
        axes.plot(speed, ap, "o", color=INK if name == rows[0][0] else "#2f6fdb", ms=7)
        axes.annotate(
            f"{name}\n{megabytes:g} MB",
            (speed, ap),
            xytext=PLACES.get(name, (8, 0)),
            textcoords="offset points",
            ha="right" if PLACES.get(name, (8, 0))[0] < 0 else "left",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axes.set_xlim(0.3, 40)
    axes.margins(y=0.15)
    axes.set_xlabel("times as fast as stage 0, a step at 100 Mbit/s")
    axes.set_title(
        "AP, with the loss that a plan allows in grey; MB sent per step per rank",
        fontsize=11,
        loc="left",
    )
    axes.grid(color="#edf0f3", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return drawing


def write_trade() -> None:
    """Write the figure; the same table gives the same file."""
    rcParams["svg.hashsalt"] = "docs"
    trade().savefig(DOCS / "figures/trade.svg", metadata={"Date": None}, facecolor="white")
