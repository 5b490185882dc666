"""Images laid through an affine or perspective map into one square, and their boxes with them.

Coordinates are continuous: pixel (0, 0) covers the square from 0 to 1, as boxes have it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yolo.data.image.letterbox import GREY

MIN_SIDE_PIXELS = 2.0
MIN_AREA_SHARE = 0.1
MAX_ASPECT = 100.0
TO_CENTRES = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
"""OpenCV's warps count from the middle of the first pixel."""
FROM_CENTRES = np.linalg.inv(TO_CENTRES)


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image (H, W, 3) uint8 with its boxes (M, 4) xyxy in pixels and classes (M,)."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True, slots=True)
class Tile:
    """An image to be laid into the plane, read only where some of it is seen."""

    read: Callable[[], np.ndarray]
    """Gives the image (rows, columns, 3) uint8."""
    rows: int
    columns: int
    boxes: np.ndarray
    """(M, 4) xyxy in its own pixels."""
    classes: np.ndarray
    """(M,)"""
    left: int = 0
    top: int = 0
    """Of its upper left corner in the plane."""


@dataclass(frozen=True, slots=True)
class View:
    """How a plane is seen in a square."""

    plane: int
    """Side of the plane; of tiles that reach beyond it the rest is cut off."""
    matrix: np.ndarray
    """(3, 3) from the plane's coordinates to the square's."""
    magnification: float
    size: int
    """Side of the square, pixels."""


def compose(tiles: Sequence[Tile], view: View, square: np.ndarray) -> Labelled:
    """The plane's tiles as the view shows them, with their boxes; what no tile covers is grey.

    The image is `square` (size, size, 3), whatever it showed before. Each tile goes from its own pixels into it in one
    step, with no plane in between. Boxes become the upright boxes around their moved corners; those left too small, too
    thin, or of which less than a tenth is still visible are dropped.
    """
    lay = _stretch if _is_upright(view.matrix) else _warp
    square[...] = GREY
    seen: list[Tile] = []
    parts: list[tuple[int, int, int, int]] = []
    maps: list[np.ndarray] = []
    for tile in tiles:
        x1, y1 = max(-tile.left, 0), max(-tile.top, 0)  # the part of it that lies in the plane
        x2, y2 = min(view.plane - tile.left, tile.columns), min(view.plane - tile.top, tile.rows)
        if x2 <= x1 or y2 <= y1:
            continue
        matrix = _shifted(view.matrix, tile.left + x1, tile.top + y1)
        left, top, right, bottom = _bounds(x2 - x1, y2 - y1, matrix)
        if left < view.size and top < view.size and right > 0 and bottom > 0:
            image = tile.read()[y1:y2, x1:x2]
            maps.append(lay(image, matrix, square))
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
    moved = np.clip(_around_corners(inside, np.stack(maps), owners), 0, view.size)
    kept = _is_still_visible(inside * view.magnification, moved)
    return Labelled(square, moved[kept].astype(np.float32), classes[kept])


def _warp(image: np.ndarray, matrix: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Paint an image into the square through a map, which is returned."""
    size = square.shape[0]
    bounds = _bounds(image.shape[1], image.shape[0], matrix)
    left, top = (min(max(math.floor(bound), 0), size - 1) for bound in bounds[:2])
    right, bottom = (min(max(math.ceil(bound), 1), size) for bound in bounds[2:])
    if right <= left or bottom <= top:
        return matrix
    place = square[top:bottom, left:right]
    to_place = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    centred = TO_CENTRES @ to_place @ matrix @ FROM_CENTRES
    is_bent = bool(matrix[2, :2].any())
    warp = cv2.warpPerspective if is_bent else cv2.warpAffine
    warp(
        image,
        centred if is_bent else centred[:2],
        (right - left, bottom - top),
        dst=place,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    return matrix


def _is_upright(matrix: np.ndarray) -> bool:
    return not (matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1])


def _stretch(image: np.ndarray, matrix: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Without rotation, shear or bend a map is a resize, which takes a third of a warp's time.

    Edges fall on whole pixels of both images. Returns the map that was really taken.
    """
    laid = np.eye(3)
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
        laid[axis, axis], laid[axis, 2] = scale, shift
        cuts.append((start, stop, first, last))
    (x1, x2, first_x, last_x), (y1, y2, first_y, last_y) = cuts
    place = square[y1:y2, x1:x2]
    if place.size:
        part = image[first_y:last_y, first_x:last_x]
        cv2.resize(part, (x2 - x1, y2 - y1), dst=place)
    return laid


def _shifted(matrix: np.ndarray, x: float, y: float) -> np.ndarray:
    """A map of coordinates that begin at (x, y)."""
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


def _around_corners(boxes: np.ndarray, maps: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Upright boxes around the moved corners of boxes (M, 4), each moved by its owner's (M,) map of (T, 3, 3)."""
    if all(_is_upright(matrix) for matrix in maps):
        scale, shift = maps[:, [0, 1, 0, 1], [0, 1, 0, 1]], maps[:, [0, 1, 0, 1], 2]
        upright: np.ndarray = boxes * scale[owners] + shift[owners]
        return upright
    corners = np.ones((len(boxes), 4, 3))
    corners[..., :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ maps.transpose(0, 2, 1)[owners]
    points = moved[..., :2] / moved[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).reshape(-1, 4)


def _is_still_visible(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which boxes (M, 4) are still worth learning; `before` is scaled to the same magnification."""
    old, new = before[:, 2:] - before[:, :2], after[:, 2:] - after[:, :2]
    is_wide = (new > MIN_SIDE_PIXELS).all(axis=1)
    safe = np.maximum(new, 1e-9)
    areas, before_areas = new[:, 0] * new[:, 1], old[:, 0] * old[:, 1]
    is_visible = areas > MIN_AREA_SHARE * np.maximum(before_areas, 1e-9)
    aspect = safe[:, 0] / safe[:, 1]
    is_plump = (aspect < MAX_ASPECT) & (aspect > 1 / MAX_ASPECT)
    return is_wide & is_visible & is_plump
