"""What was measured: ratios with their spread, as JSON and as a picture of where a step's time goes."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

DOTS_PER_INCH = 130
COLOURS = ("#8a98a8", "#2f6fdb", "#17a2b8", "#e8792b")
PARTS = ("waiting for images", "forward and loss", "backward", "optimizer and average")


@dataclass(frozen=True, slots=True)
class SpeedRatio:
    """One thing measured on both sides, round by round."""

    name: str
    unit: str
    is_faster_higher: bool
    """Whether the faster side has the larger figure."""
    ours: tuple[float, ...]
    baseline: tuple[float, ...]
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as the baseline, of each round."""
        pairs = zip(self.ours, self.baseline, strict=True)
        return [a / b if self.is_faster_higher else b / a for a, b in pairs]

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    def line(self) -> str:
        """For people."""
        ours, baseline = statistics.median(self.ours), statistics.median(self.baseline)
        return (
            f"{self.name}: {ours:.4g} against {baseline:.4g} {self.unit}: {self.ratio:.2f} times as fast "
            f"({min(self.ratios):.2f} to {max(self.ratios):.2f} in {len(self.ratios)} rounds)"
            + (f"; {self.note}" if self.note else "")
        )


@dataclass(slots=True)
class SpeedResults:
    """All that one run of the benchmark measured."""

    machine: str
    comparisons: list[SpeedRatio] = field(default_factory=list)
    step_seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Side to part to seconds a step."""
    facts: dict[str, object] = field(default_factory=dict)
    """What else was found out: precision, processor's or GPU's share of its peak, AP of both sides."""


def write_results(results: SpeedResults, folder: Path) -> list[Path]:
    """Write speed.json, and speed.png where a step was taken apart; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        asdict(each)
        | {
            "ratio": each.ratio,
            "ratio_low": min(each.ratios),
            "ratio_high": max(each.ratios),
        }
        for each in results.comparisons
    ]
    content = {
        "machine": results.machine,
        "comparisons": rows,
        "step_seconds": results.step_seconds,
        "facts": results.facts,
    }
    as_json = folder / "speed.json"
    as_json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if not results.step_seconds:
        return [as_json]
    picture = folder / "speed.png"
    figure(results.step_seconds).savefig(picture, dpi=DOTS_PER_INCH)
    return [as_json, picture]


def figure(sides: Mapping[str, Mapping[str, float]]) -> Figure:
    """A stacked bar a side: milliseconds of a step, by part."""
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
    axes.set_xlabel("milliseconds a training step")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(loc="outside upper center", ncols=len(PARTS), frameon=False, fontsize=9)
    return drawing
