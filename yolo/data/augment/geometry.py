"""Warp images and their boxes through an affine or perspective map into one square.

Coordinates are continuous, as those of boxes: pixel (0, 0) covers the square from 0 to 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yolo.data.image.letterbox import GREY
from yolo.data.image.resized import Tile

MIN_SIDE_PIXELS = 2.0
MIN_AREA_SHARE = 0.1
MAX_ASPECT = 100.0
TO_CENTRES = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
"""OpenCV's warps count from the center of the first pixel."""
FROM_CENTRES = np.linalg.inv(TO_CENTRES)


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image (H, W, 3) uint8 with its boxes (M, 4) xyxy in pixels and classes (M,)."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True, slots=True)
class View:
    """How the plane is mapped to the square."""

    plane: int
    """Side of the plane; tiles are cut off at its edges."""
    matrix: np.ndarray
    """(3, 3) from the plane's coordinates to the square's."""
    magnification: float
    size: int
    """Side of the square, pixels."""


def compose(tiles: Sequence[Tile], view: View, square: np.ndarray) -> Labelled:
    """Draw the tiles of the plane as the view shows them; pixels without a tile are grey.

    The image is `square` (size, size, 3), overwritten. Each tile is warped into it in one step, without drawing the
    plane. Boxes become the upright boxes around their warped corners; a box is dropped if it is too small or too thin,
    or if less than a tenth of it is visible.
    """
    warp = _resize if _is_upright(view.matrix) else _warp
    square[...] = GREY
    seen: list[Tile] = []
    parts: list[tuple[int, int, int, int]] = []
    maps: list[np.ndarray] = []
    for tile in tiles:
        x1, y1 = max(-tile.left, 0), max(-tile.top, 0)  # the part of the tile on the plane
        x2, y2 = min(view.plane - tile.left, tile.columns), min(view.plane - tile.top, tile.rows)
        if x2 <= x1 or y2 <= y1:
            continue
        matrix = _shifted(view.matrix, tile.left + x1, tile.top + y1)
        left, top, right, bottom = _bounds(x2 - x1, y2 - y1, matrix)
        if left < view.size and top < view.size and right > 0 and bottom > 0:
            image = tile.read()[y1:y2, x1:x2]
            maps.append(warp(image, matrix, square))
            parts.append((x1, y1, x2, y2))
            seen.append(tile)
    if not seen:
        return Labelled(square, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    owners = np.repeat(np.arange(len(seen)), [len(tile.boxes) for tile in seen])
    boxes = np.concatenate([tile.boxes for tile in seen])
    classes = np.concatenate([tile.classes for tile in seen])
    part = np.array(parts)[owners]  # (M, 4)
    corner = part[:, [0, 1, 0, 1]]
    inside = np.clip(boxes - corner, 0, part[:, [2, 3, 2, 3]] - corner)
    moved = np.clip(_warped_boxes(inside, np.stack(maps), owners), 0, view.size)
    kept = _is_visible(inside * view.magnification, moved)
    return Labelled(square, moved[kept].astype(np.float32), classes[kept])


def _warp(image: np.ndarray, matrix: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Warp an image into the square; returns `matrix`."""
    size = square.shape[0]
    bounds = _bounds(image.shape[1], image.shape[0], matrix)
    left, top = (min(max(math.floor(bound), 0), size - 1) for bound in bounds[:2])
    right, bottom = (min(max(math.ceil(bound), 1), size) for bound in bounds[2:])
    if right <= left or bottom <= top:
        return matrix
    to_region = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    centred = TO_CENTRES @ to_region @ matrix @ FROM_CENTRES
    is_affine = not matrix[2, :2].any()
    warp = cv2.warpAffine if is_affine else cv2.warpPerspective
    to_pixels, shape = centred[:2] if is_affine else centred, (right - left, bottom - top)
    region = square[top:bottom, left:right]
    warp(image, to_pixels, shape, region, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
    return matrix


def _is_upright(matrix: np.ndarray) -> bool:
    return not (matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1])


def _resize(image: np.ndarray, matrix: np.ndarray, square: np.ndarray) -> np.ndarray:
    """A map without rotation, shear or perspective is a resize, which takes a third of a warp's time.

    Edges are rounded to whole pixels of both images. Returns the map after rounding.
    """
    rounded = np.eye(3)
    cuts = []
    for axis in (0, 1):
        scale, shift = float(matrix[axis, axis]), float(matrix[axis, 2])
        side, length = square.shape[0], image.shape[1 - axis]
        start = min(max(round(shift), 0), side)
        stop = min(max(round(shift + scale * length), 0), side)
        first = min(max(round((start - shift) / scale), 0), length - 1)
        last = min(max(round((stop - shift) / scale), first + 1), length)
        if stop > start:
            scale = (stop - start) / (last - first)
            shift = start - first * scale
        rounded[axis, axis], rounded[axis, 2] = scale, shift
        cuts.append((start, stop, first, last))
    (x1, x2, first_x, last_x), (y1, y2, first_y, last_y) = cuts
    region = square[y1:y2, x1:x2]
    if region.size:
        cv2.resize(image[first_y:last_y, first_x:last_x], (x2 - x1, y2 - y1), dst=region)
    return rounded


def _shifted(matrix: np.ndarray, x: float, y: float) -> np.ndarray:
    """The map for coordinates relative to (x, y)."""
    moved: np.ndarray = matrix.copy()
    moved[:, 2] += matrix[:, 0] * x + matrix[:, 1] * y
    return moved


def _bounds(width: float, height: float, matrix: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a rectangle (0, 0, width, height) after a map."""
    x, y, w = (
        [a * px + b * py + c for px, py in ((0, 0), (width, 0), (width, height), (0, height))]
        for a, b, c in matrix.tolist()
    )
    x, y = [a / c for a, c in zip(x, w, strict=True)], [b / c for b, c in zip(y, w, strict=True)]
    return min(x), min(y), max(x), max(y)


def _warped_boxes(boxes: np.ndarray, maps: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Upright boxes around the warped corners of boxes (M, 4); `maps` (T, 3, 3), `owners` (M,) indices into it."""
    if all(_is_upright(matrix) for matrix in maps):
        scale, shift = maps[:, [0, 1, 0, 1], [0, 1, 0, 1]], maps[:, [0, 1, 0, 1], 2]
        upright: np.ndarray = boxes * scale[owners] + shift[owners]
        return upright
    corners = np.ones((len(boxes), 4, 3))
    corners[..., :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ maps.transpose(0, 2, 1)[owners]
    points = moved[..., :2] / moved[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).reshape(-1, 4)


def _is_visible(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(M,) bool: boxes worth learning; `before` (M, 4) is scaled to the magnification of `after`."""
    old, new = before[:, 2:] - before[:, :2], after[:, 2:] - after[:, :2]
    is_wide = (new > MIN_SIDE_PIXELS).all(axis=1)
    safe = np.maximum(new, 1e-9)
    is_visible = new.prod(axis=1) > MIN_AREA_SHARE * np.maximum(old.prod(axis=1), 1e-9)
    aspect = safe[:, 0] / safe[:, 1]
    is_thick = (aspect < MAX_ASPECT) & (aspect > 1 / MAX_ASPECT)
    return is_wide & is_visible & is_thick
