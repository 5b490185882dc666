"""The speed benchmark's results: ratios with their spread, and a figure of the parts of a step's time."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from yolo.bench.results import write_results

COLOURS = ("#8a98a8", "#2f6fdb", "#17a2b8", "#e8792b")
PARTS = ("waiting for images", "forward and loss", "backward", "optimizer and average")


@dataclass(frozen=True, slots=True)
class SpeedRatio:
    """One measurement on both sides, one value per round."""

    name: str
    unit: str
    is_faster_higher: bool
    """Whether the faster side has the larger value."""
    ours: tuple[float, ...]
    baseline: tuple[float, ...]
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as the baseline, per round."""
        pairs = zip(self.ours, self.baseline, strict=True)
        return [a / b if self.is_faster_higher else b / a for a, b in pairs]

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    def line(self) -> str:
        """The ratio and its spread for the console."""
        ours, baseline = statistics.median(self.ours), statistics.median(self.baseline)
        return (
            f"{self.name}: {ours:.4g} against {baseline:.4g} {self.unit}: {self.ratio:.2f} times as fast "
            f"({min(self.ratios):.2f} to {max(self.ratios):.2f} in {len(self.ratios)} rounds)"
            + (f"; {self.note}" if self.note else "")
        )


@dataclass(slots=True)
class SpeedResults:
    """Everything that one run of the benchmark measured."""

    machine: str
    comparisons: list[SpeedRatio] = field(default_factory=list)
    step_seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Seconds per step, by side and part."""
    facts: dict[str, object] = field(default_factory=dict)
    """The precision, the peak memory of both sides, the GPU's share of its peak rate."""

    def write(self, folder: Path) -> list[Path]:
        """Write speed.json, and speed.png if a step's parts were measured; returns the files."""
        content = asdict(self)
        for row, each in zip(content["comparisons"], self.comparisons, strict=True):
            low, high = min(each.ratios), max(each.ratios)
            row |= {"ratio": each.ratio, "ratio_low": low, "ratio_high": high}
        drawing = figure(self.step_seconds) if self.step_seconds else None
        return write_results(folder, "speed", content, figure=drawing)


def figure(sides: Mapping[str, Mapping[str, float]]) -> Figure:
    """One stacked bar per side: milliseconds per step, by part."""
    drawing = Figure(figsize=(8.4, 1.2 + 0.8 * len(sides)), layout="constrained")
    axes = drawing.subplots()
    names = list(sides)[::-1]
    left = [0.0] * len(names)
    for part, colour in zip(PARTS, COLOURS, strict=True):
        widths = [1e3 * sides[name].get(part, 0.0) for name in names]
        bars = axes.barh(names, widths, left=left, color=colour, label=part, height=0.62)
        longest = max(sum(side.values()) for side in sides.values()) * 1e3
        labels = [f"{width:.0f}" if width > 0.05 * longest else "" for width in widths]
        axes.bar_label(bars, labels, label_type="center", color="white", fontsize=9)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, total in enumerate(left):
        axes.text(total, row, f"  {total:.0f} ms", va="center", fontsize=9)
    axes.set_xlim(0, max(left) * 1.13)
    axes.set_xlabel("milliseconds per training step")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(loc="outside upper center", ncols=len(PARTS), frameon=False, fontsize=9)
    return drawing
