"""Draw detections into their image."""

import colorsys
from typing import NamedTuple

import cv2
import numpy as np

from yolo.evaluation.detections import Detections

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN_RATIO = 0.618034
"""Step on the colour circle from class to class: neighbours differ much, and no two of many classes coincide."""


class Pen(NamedTuple):
    """Line and text sizes for an image."""

    line: int
    """Width of a box's line, pixels."""
    text: int
    """Width of a letter's strokes, pixels."""
    scale: float
    """OpenCV's font scale: 1 is about 22 pixels for a capital letter."""


def draw_detections(
    image: np.ndarray, detections: Detections, class_names: tuple[str, ...]
) -> np.ndarray:
    """A copy of an image (H, W, 3) uint8, BGR, with boxes, class names and scores; the highest score on top."""
    drawn = np.ascontiguousarray(image).copy()
    pen = pen_for(*image.shape[:2])
    ordered = detections.ordered()
    rows = list(zip(ordered.boxes, ordered.scores, ordered.classes.tolist(), strict=True))
    for box, _, category in reversed(rows):
        left, top, right, bottom = box.round().astype(int).tolist()
        cv2.rectangle(drawn, (left, top), (right, bottom), class_colour(category), pen.line)
    for box, score, category in reversed(rows):  # after all boxes: no line crosses a label
        _draw_label(drawn, f"{class_names[category]} {score:.2f}", box, class_colour(category), pen)
    return drawn


def pen_for(height: int, width: int) -> Pen:
    """Lines of 2 pixels and capitals of 9 for an image of 640; scaled with the image, but always legible."""
    side = max(height, width)
    scale = min(3.0, max(0.35, side / 1500))
    return Pen(max(1, round(side / 320)), max(1, round(scale * 1.6)), scale)


def class_colour(category: int) -> tuple[int, int, int]:
    """A class's saturated colour (BGR), the same in every image."""
    hue = (0.58 + category * GOLDEN_RATIO) % 1.0
    value = (0.95, 0.75)[category // 8 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def _draw_label(
    image: np.ndarray, text: str, box: np.ndarray, colour: tuple[int, int, int], pen: Pen
) -> None:
    """A filled label above the box's upper left corner, or inside it if there is no room; never beyond the image."""
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, pen.scale, pen.text)
    margin = max(2, round(4 * pen.scale))
    width, height = text_width + 2 * margin, text_height + baseline + margin
    left, top = (int(value) for value in box[:2].round())
    left = max(0, min(left - pen.line // 2, image.shape[1] - width))
    bottom = top if top >= height else min(top + height, image.shape[0])
    cv2.rectangle(image, (left, bottom - height), (left + width, bottom), colour, cv2.FILLED)
    # OpenCV counts some space above the capitals as text: half of it goes below, to centre the text.
    place = (left + margin, bottom - baseline - round(0.15 * text_height))
    cv2.putText(image, text, place, FONT, pen.scale, _ink(colour), pen.text, cv2.LINE_AA)


def _ink(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black on light colours, white on dark ones (luminance after ITU-R BT.601)."""
    blue, green, red = colour
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else (255, 255, 255)
