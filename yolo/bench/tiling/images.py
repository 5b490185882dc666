"""The drawn images: large ones, their tiles, and small ones that all approaches learn the textures from first.

A class is a texture, so it takes full resolution. A box is a whole shape, so it takes the whole extent.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from yolo.bench.tiling.tiles import write_views
from yolo.data.demo import MARKER, DemoSettings, ShapeSizes, generate_demo
from yolo.data.open import load_annotated

LARGE = ShapeSizes(0.045, 0.075, 10)
"""276 to 461 pixels across in images of 3,072: tiles of 640 that overlap by 128 cut most of them."""
SMALL_RADII = (10.0, 15.0)
"""Pixels: small in COCO's terms, and whole in one of two tiles that overlap."""
MOST_SMALL = 10
START_SIZE, START_LARGE, START_SMALL = 256, ShapeSizes(0.1, 0.4, 2), 4
"""Of the small images: side in pixels, large shapes, and most small ones per image."""


@dataclass(frozen=True, slots=True)
class DrawnImages:
    """Folders in COCO format."""

    large: Path
    tiles: Path


def draw_large(folder: Path, size: int, tile: int, train: int, val: int) -> DrawnImages:
    """Draw large images and cut them into tiles, unless both are there."""
    large = _draw(folder / f"large-{size}", size, train, val, LARGE, MOST_SMALL)
    tiles = large.with_name(f"{large.name}-tiles-{tile}")
    if not (tiles / MARKER).is_file():
        shutil.rmtree(tiles, ignore_errors=True)
        for split in ("train", "val"):
            write_views(load_annotated(large, split), split, tiles, tile)
        shutil.copy(large / MARKER, tiles / MARKER)
    return DrawnImages(large, tiles)


def draw_start(folder: Path) -> Path:
    """Draw the small images, unless they are there; returns their folder."""
    return _draw(folder / "large-start", START_SIZE, 512, 64, START_LARGE, START_SMALL)


def _draw(path: Path, size: int, train: int, val: int, large: ShapeSizes, small: int) -> Path:
    """The folder's name ends with a digest of all that the images depend on, so that results of other images are never taken."""
    least, largest = (radius / size for radius in SMALL_RADII)
    sizes = (large, ShapeSizes(least, largest, small))
    settings = DemoSettings(train, val, size, sizes=sizes, is_textured=True)
    digest = hashlib.sha256(json.dumps(asdict(settings)).encode()).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    root = path.with_name(f"{path.name}-{digest[:8]}")
    generate_demo(root, settings)
    return root
