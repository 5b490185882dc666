"""One image with what each approach detects in it, so that the seams of tiles can be seen."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from matplotlib.figure import Figure

from yolo.bench.results import INK
from yolo.bench.tiling.approaches import Measured, Plan
from yolo.data.image.decode import read_image
from yolo.data.image.letterbox import resize_long_side
from yolo.evaluation.detections import GroundTruth
from yolo.evaluation.drawing import draw_detections

SHOWN_CONFIDENCE = 0.25
SIDE = 800
"""Of each drawing, pixels: seams and boxes are seen, textures are not."""
SEAM = (255, 255, 255)


def draw_picture(truth: GroundTruth, measured: Sequence[tuple[Plan, Measured]]) -> Figure:
    """The image with the most large objects, once for each approach, with its detections from 0.25 on."""
    record = max(truth.images, key=lambda image: float(image.areas.sum()))
    place = truth.images.index(record)
    image = read_image(record.path, record.width, record.height)
    small = resize_long_side(image, SIDE, (record.height, record.width))
    scale = SIDE / max(record.width, record.height)
    figure = Figure(figsize=(5 * len(measured), 5.4), layout="constrained")
    for axes, (plan, result) in zip(figure.subplots(1, len(measured)), measured, strict=True):
        found = result.found[place].above(SHOWN_CONFIDENCE)
        canvas = small.copy()
        for view in plan.views(record.width, record.height)[:-1]:
            corners = (
                np.array([view.left, view.top, view.left + view.width, view.top + view.height])
                * scale
            ).round()
            left, top, right, bottom = corners.astype(int).tolist()
            cv2.rectangle(canvas, (left, top), (right, bottom), SEAM, 1)
        drawn = draw_detections(
            canvas, replace(found, boxes=found.boxes * scale), truth.class_names
        )
        axes.imshow(drawn[..., ::-1])
        axes.set_title(
            f"{plan.name}, {plan.image_size:,} pixels: AP {result.metrics.ap or 0:.3f}",
            color=INK,
            loc="left",
        )
        axes.axis("off")
    return figure
