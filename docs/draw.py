"""Draw the pages' figures that no command of theirs writes: `python -m docs.draw`, after `make train`.

`data-flow.svg`: how a recipe becomes a run. `training.png` and `detections.jpg`: the demo's newest run, and its detections
in some of the validation images.
"""

from pathlib import Path

import cv2
import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from yolo.data.image.decode import read_image
from yolo.evaluation.drawing import draw_detections
from yolo.evaluation.predict import Predictor
from yolo.model.io.weights import load_detector
from yolo.tracking.charts import training_chart
from yolo.tracking.history import read_history

DOCS = Path(__file__).parent
FIGURES = DOCS / "figures"
INK, PALE = "#1f2933", "#8a94a0"
FILES, CODE, RUN = "#fdf3e3", "#e8f0fd", "#e7f6ee"
"""What a user writes or reads; what computes; what runs on every rank."""
BOXES = {
    "recipe": (0, 3, "recipe (YAML)", FILES),
    "check": (1, 3, "check, resolve\nautomatic values", CODE),
    "json": (2, 3, "DeepSpeed JSON", FILES),
    "calibration": (0, 2, "calibrate\nthe cluster", CODE),
    "planner": (1, 2, "planner", CODE),
    "engine": (2, 2, "engine (DeepSpeed)", RUN),
    "model": (1, 1, "YOLOv5,\ncommunication", CODE),
    "step": (2, 1, "training step", RUN),
    "data": (1, 0, "images, shards", FILES),
    "record": (2, 0, "checkpoints, AP, W&B,\nmeasured cost", FILES),
}
"""Column and row from below, text and colour of each box."""
ARROWS = (
    *(("recipe", "check"), ("check", "json"), ("check", "planner"), ("planner", "json")),
    *(("calibration", "planner"), ("json", "engine"), ("model", "engine"), ("engine", "step")),
    *(("data", "step"), ("step", "record")),
)
WIDTH, HEIGHT = 0.78, 0.52
RUN_FOLDER = Path("runs/demo/latest")
IMAGES = Path("data/demo/images")
SHOWN = range(2, 7)
"""Numbers of the validation images that are shown, one beside the other."""


def data_flow() -> Figure:
    """From a recipe to a run's record."""
    drawing = Figure(figsize=(8, 4.2), layout="constrained")
    axes = drawing.subplots()
    for x, y, text, colour in BOXES.values():
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        style = "round,pad=0,rounding_size=0.06"
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, style, fc=colour, ec=PALE, lw=1.0))
        axes.text(x, y, text, ha="center", va="center", fontsize=11, color=INK)
    for start, end in ARROWS:
        axes.add_patch(_arrow(BOXES[start][:2], BOXES[end][:2]))
    axes.set_xlim(-0.45, 2.45)
    axes.set_ylim(-0.4, 3.4)
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


def detections() -> np.ndarray:
    """The demo's detections, (height, width, 3) BGR."""
    detector = load_detector(RUN_FOLDER / "weights/best.safetensors")
    predictor = Predictor(detector.model, detector.image_size, confidence=0.5)
    shown = []
    for number in SHOWN:
        image = read_image(IMAGES / f"val-{number:04d}.jpg")
        found = predictor.detect(image)
        shown.append(draw_detections(image, found, detector.class_names))
    return np.hstack(shown)


def main() -> None:
    """Write the figures; the same input gives the same file."""
    rcParams["svg.hashsalt"] = "docs"
    data_flow().savefig(FIGURES / "data-flow.svg", metadata={"Date": None}, facecolor="white")
    chart = training_chart(read_history(RUN_FOLDER / "metrics.jsonl"))
    (FIGURES / "training.png").write_bytes(chart)
    cv2.imwrite(str(FIGURES / "detections.jpg"), detections())


if __name__ == "__main__":
    main()
