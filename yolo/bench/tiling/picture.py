"""One image with what each approach detects in it, so that the seams of tiles can be seen."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from matplotlib.figure import Figure

from yolo.bench.results import INK
from yolo.bench.tiling.approaches import Measured, Plan
from yolo.bench.tiling.tiles import View
from yolo.data.image.decode import read_image
from yolo.data.image.letterbox import resize_long_side
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.evaluation.drawing import draw_detections

SHOWN_CONFIDENCE = 0.25
SIDE = 800
"""Of each drawing, pixels: seams and boxes are seen, textures are not."""
SEAM = (255, 255, 255)


def draw_picture(truth: GroundTruth, measured: Sequence[tuple[Plan, Measured]]) -> Figure:
    """The image with the most area in objects, once for each approach, with its detections from 0.25 on."""
    place = max(range(len(truth.images)), key=lambda index: float(truth.images[index].areas.sum()))
    record = truth.images[place]
    image = read_image(record.path, record.width, record.height)
    small = resize_long_side(image, SIDE, (record.height, record.width))
    figure = Figure(figsize=(5 * len(measured), 5.4), layout="constrained")
    all_axes = figure.subplots(1, len(measured), squeeze=False)[0]
    for axes, (plan, result) in zip(all_axes, measured, strict=True):
        *tiles, _ = plan.views(record.width, record.height)
        found = result.found[place].above(SHOWN_CONFIDENCE)
        axes.imshow(_drawn(small, tiles, found, SIDE / max(record.width, record.height), truth))
        title = f"{plan.name}, {plan.image_size:,} pixels: AP {result.metrics.ap or 0:.3f}"
        axes.set_title(title, color=INK, loc="left")
        axes.axis("off")
    return figure


def _drawn(
    image: np.ndarray, tiles: Sequence[View], found: Detections, scale: float, truth: GroundTruth
) -> np.ndarray:
    """An image (H, W, 3) BGR, `scale` times as large as tiles and detections, with both drawn in; RGB."""
    seams = image.copy()
    for tile in tiles:
        ends = (tile.left, tile.top), (tile.left + tile.width, tile.top + tile.height)
        first, last = ([round(scale * coordinate) for coordinate in end] for end in ends)
        cv2.rectangle(seams, first, last, SEAM, 1)
    drawn = draw_detections(seams, replace(found, boxes=found.boxes * scale), truth.class_names)
    return drawn[..., ::-1]
