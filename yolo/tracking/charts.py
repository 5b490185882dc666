"""Figures of a run as PNG files."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from yolo.evaluation.metrics import ConfusionMatrix, Metrics
from yolo.tracking.history import History
from yolo.tracking.records import PredictedAndMeasured

INK, FAINT = "#1f2933", "#d9dee4"
BLUE, ORANGE, GREEN, PURPLE, RED = "#2f6fdb", "#e8792b", "#2a9d6f", "#8a4fd0", "#d64550"
CURVE_COLOURS = (
    *(BLUE, ORANGE, GREEN, PURPLE, RED),
    *("#12a4b8", "#b5850b", "#c2408f", "#6b7f1e", "#7a5a45"),
)
"""For curves with a name; more of them would hide each other."""
DOTS_PER_INCH = 130
MAX_NUMBERED_CELLS = 400
"""With more than 20 labels, a number does not fit into its cell."""


def training_chart(history: History) -> bytes:
    """Draw loss parts on the left, AP and AP50 on the right, both over the epochs."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses, precisions = history.losses, history.precisions
    epochs = [point.epoch for point in losses]
    _curve(left, epochs, [point.box for point in losses], "box", BLUE)
    _curve(left, epochs, [point.obj for point in losses], "objectness", ORANGE)
    _curve(left, epochs, [point.cls for point in losses], "class", GREEN)
    _finish(left, "Training loss", "epoch")
    left.set_ylim(bottom=0)

    epochs = [point.epoch for point in precisions]
    _curve(right, epochs, [point.ap50 for point in precisions], "AP50", BLUE)
    _curve(right, epochs, [point.ap for point in precisions], "AP", PURPLE)
    _finish(right, "Validation", "epoch")
    right.set_ylim(0, 1)
    return _png(figure)


def comparison_chart(found: Sequence[PredictedAndMeasured]) -> bytes:
    """Draw predicted beside measured figures as pairs of bars: seconds on the left, bytes on the right."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, unit, scale, title, label in (
        (left, "seconds", 1e3, "A step", "milliseconds"),
        (right, "bytes", 1e-6, "Bytes of a rank", "MB"),
    ):
        some = [each for each in found if each.unit == unit]
        rows = np.arange(len(some))
        for offset, name, colour, values in (
            (-0.19, "predicted", BLUE, [each.predicted * scale for each in some]),
            (0.19, "measured", ORANGE, [each.measured * scale for each in some]),
        ):
            axes.barh(rows + offset, values, height=0.36, color=colour, label=name)
        axes.set_yticks(rows, [each.label for each in some])
        axes.invert_yaxis()
        _finish(axes, title, label)
    return _png(figure)


def precision_recall_chart(result: Metrics) -> bytes:
    """Draw precision over recall at IoU 0.5: the mean thick, the classes with the most boxes by name, the rest faint."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    boxes = {row.name: row.boxes for row in result.per_class}
    ap50 = {row.name: row.ap50 for row in result.per_class}
    curves = sorted(result.curves, key=lambda curve: -boxes.get(curve.name, 0))
    for number, curve in enumerate(curves):
        recalls = np.linspace(0, 1, len(curve.precision))
        if number < len(CURVE_COLOURS):
            label = f"{curve.name}  {_figure(ap50.get(curve.name))}"
            axes.plot(recalls, curve.precision, color=CURVE_COLOURS[number], lw=1.3, label=label)
        else:
            axes.plot(recalls, curve.precision, color=FAINT, lw=0.8, zorder=1)
    if result.mean_curve is not None:
        mean = result.mean_curve.precision
        label = f"{result.mean_curve.name}  {_figure(result.ap50)}"
        axes.plot(np.linspace(0, 1, len(mean)), mean, color=INK, lw=2.6, label=label)
    _finish(axes, "Precision over recall, IoU 0.5", "recall", has_legend=False)
    axes.set_ylabel("precision")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if curves:
        axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8, title="AP50"
        )
    return _png(figure)


def confusion_chart(confusion: ConfusionMatrix) -> bytes:
    """Draw the confusion matrix: colours are fractions of the row, numbers are counts."""
    labels, counts = confusion.labels, confusion.counts
    side = min(14.0, max(4.2, 1.6 + 0.42 * len(labels)))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = min(8.0, max(4.5, 550 / len(labels)))  # points; a row of 81 labels has 12 each
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.set_xlabel("detected as (background = missed)", color=INK)
    axes.set_ylabel("is (background = nothing is there)", color=INK)
    axes.set_title("Confusion, confidence 0.25, IoU 0.45", color=INK, loc="left", weight="bold")
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    if counts.size <= MAX_NUMBERED_CELLS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.55 else INK
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, pad=0.02, label="share of the row")
    bar.outline.set_visible(False)
    return _png(figure)


def _curve(axes: Axes, x: Sequence[float], y: Sequence[float], name: str, colour: str) -> None:
    marker = "o" if len(x) <= 30 else None  # one evaluation alone draws no visible line
    axes.plot(x, y, color=colour, lw=1.8, label=name, marker=marker, ms=3)


def _finish(axes: Axes, title: str, x_label: str, has_legend: bool = True) -> None:
    axes.set_title(title, loc="left", weight="bold", color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    if has_legend:
        axes.legend(frameon=False)


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    return buffer.getvalue()
