"""Draw the pages' figures that no command of theirs writes: `python docs/draw.py`, after `make train` and `make detect`.

`data-flow.svg`: how a recipe becomes a run. `trade.svg`: the table of strategies in strategies.md. `training.png` and
`detections.jpg`: the demo's newest run, and its detections in some of the validation images.
"""

import re
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from yolo.data.image.decode import read_image
from yolo.evaluation.drawing import draw_detections
from yolo.evaluation.predict import detect
from yolo.model.io.weights import load_detector
from yolo.tracking.charts import training_chart
from yolo.tracking.history import read_history

DOCS = Path(__file__).parent
FIGURES = DOCS / "figures"
INK, PALE = "#1f2933", "#8a94a0"
FILES, CODE, RUN = "#fdf3e3", "#e8f0fd", "#e7f6ee"
"""What a user writes or reads; what computes; what runs on every rank."""
BOXES = {
    "recipe": (0.0, 1.0, "recipe\n(YAML)", FILES),
    "check": (1.0, 1.0, "check, resolve\n`auto` values", CODE),
    "json": (2.0, 1.0, "DeepSpeed\nJSON", FILES),
    "engine": (3.0, 1.0, "engine\n(DeepSpeed)", RUN),
    "step": (4.0, 1.0, "training step", RUN),
    "outputs": (5.0, 1.0, "checkpoints,\nAP, export", FILES),
    "calibration": (0.0, 0.0, "calibrate\nthe cluster", CODE),
    "planner": (1.0, 0.0, "planner", CODE),
    "model": (3.0, 0.0, "YOLOv5,\ncommunication", CODE),
    "data": (4.0, 0.0, "images,\nshards", FILES),
    "tracking": (5.0, 0.0, "W&B, report,\nmeasured cost", FILES),
}
"""Place (column, row), text and colour of each box."""
ARROWS = (
    *(("recipe", "check"), ("check", "json"), ("json", "engine"), ("engine", "step")),
    *(("step", "outputs"), ("check", "planner"), ("planner", "json"), ("calibration", "planner")),
    *(("model", "engine"), ("data", "step"), ("step", "tracking")),
)
WIDTH, HEIGHT = 0.78, 0.52
RUN_FOLDER = Path("runs/demo/latest")
IMAGES = Path("data/demo/images")
SHOWN = range(2, 7)
"""Numbers of the validation images that are shown, one beside the other."""


def data_flow() -> Figure:
    """From a recipe to a run's record."""
    drawing = Figure(figsize=(11, 2.9), layout="constrained")
    axes = drawing.subplots()
    for x, y, text, colour in BOXES.values():
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        style = "round,pad=0,rounding_size=0.06"
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, style, fc=colour, ec=PALE, lw=1.0))
        axes.text(x, y, text, ha="center", va="center", fontsize=11, color=INK)
    for start, end in ARROWS:
        axes.add_patch(_arrow(BOXES[start][:2], BOXES[end][:2]))
    axes.set_xlim(-0.5, 5.5)
    axes.set_ylim(-0.4, 1.4)
    axes.axis("off")
    return drawing


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> FancyArrowPatch:
    """From the edge of one box to the edge of the next."""
    (x0, y0), (x1, y1) = start, end
    if y0 == y1:
        ends = (x0 + WIDTH / 2, y0), (x1 - WIDTH / 2, y1)
    elif x0 == x1:
        sign = 1 if y1 > y0 else -1
        ends = (x0, y0 + sign * HEIGHT / 2), (x1, y1 - sign * HEIGHT / 2)
    else:
        sign = 1 if y1 > y0 else -1
        ends = (x0 + WIDTH / 2, y0 + sign * 0.1), (x1 - WIDTH / 2, y1 - sign * 0.1)
    return FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=12, color=PALE, lw=1.2)


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
    """What fewer bytes buy in step time, and what they cost in AP."""
    rows = trade_rows()
    drawing = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for number, (name, megabytes, speed, ap) in enumerate(rows):
        is_default = number == 0
        for axes, value in ((left, speed), (right, ap)):
            colour = INK if is_default else "#2f6fdb"
            axes.plot(megabytes, value, "o", color=colour, ms=8 if is_default else 6)
            axes.annotate(
                name,
                (megabytes, value),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=9,
                color=INK,
            )
    right.axhline(rows[0][3], color=PALE, lw=0.8, ls=":")
    left.set_yscale("log")
    left.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    _format(left, "times as fast as stage 0, at 100 Mbit/s")
    _format(right, "AP of the demo, 20 epochs, one seed")
    return drawing


def _format(axes: Axes, title: str) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.12)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("MB sent per step per rank")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(color="#edf0f3", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def detections() -> np.ndarray:
    """The demo's detections, (height, width, 3) BGR."""
    detector = load_detector(RUN_FOLDER / "weights/best.safetensors")
    shown = []
    for number in SHOWN:
        image = read_image(IMAGES / f"val-{number:04d}.jpg")
        found = detect(
            detector.model, image, detector.image_size, 0.25, 0.45, 300, torch.device("cpu")
        )
        shown.append(draw_detections(image, found, detector.class_names))
    return np.hstack(shown)


def main() -> None:
    """Write the figures; the same input gives the same file."""
    rcParams["svg.hashsalt"] = "docs"
    for name, drawing in (("data-flow", data_flow()), ("trade", trade())):
        drawing.savefig(FIGURES / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    chart = training_chart(read_history(RUN_FOLDER / "metrics.jsonl"))
    (FIGURES / "training.png").write_bytes(chart)
    cv2.imwrite(str(FIGURES / "detections.jpg"), detections())


if __name__ == "__main__":
    main()
