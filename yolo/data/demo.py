"""The demo data set: drawn shapes on textured backgrounds, in COCO format, equal for equal seeds.

`python -m yolo.data.demo --root data/demo`
"""

import argparse
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "hexagon", "spark")
OUTLINES = ((48, 1.0), (4, 1.0), (3, 1.0), (10, 0.45), (6, 1.0), (8, 0.4))
"""Of each shape: its corners, and the radius of every second one as a share of the others'."""
TEXTURES = ("rows", "columns", "checks")
"""Of two brightnesses in equal shares, and blotched: in a smaller image, which averages them, only the blotches are left."""
TEXTURE_PERIOD = 4
BLOTCH = 8
"""Side in pixels."""
BLOTCH_SHADE = 0.25
"""How much darker a blotch can be."""
EMPTY_SHARE = 0.05
MAX_OVERLAP = 0.15
MARKER = "complete.json"

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ShapeSizes:
    """Shapes of about one size."""

    least_radius: float = 0.07
    """Share of the image's side."""
    largest_radius: float = 0.21
    most: int = 5
    """Per image; at least one, unless the image is empty."""


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Everything that the data set depends on."""

    train_images: int = 512
    val_images: int = 128
    size: int = 256
    seed: int = 0
    shapes: int = 4
    """The first so many of SHAPES."""
    sizes: tuple[ShapeSizes, ...] = (ShapeSizes(),)
    """Drawn in this order."""
    is_textured: bool = False
    """The class is one of TEXTURES, and a shape has any outline."""
    version: int = 1
    """Increase when the drawing changes, so that old data are drawn again."""


def generate_demo(root: Path, settings: DemoSettings = DemoSettings()) -> bool:
    """Draw the data set into a folder; false if the folder is already complete with these settings."""
    marker = json.dumps(asdict(settings), indent=1) + "\n"
    if (root / MARKER).is_file() and (root / MARKER).read_text() == marker:
        return False
    temporary = root.with_name(f".{root.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    for folder in ("images", "annotations"):
        (temporary / folder).mkdir(parents=True)
    counts = {"train": settings.train_images, "val": settings.val_images}
    for number, (split, count) in enumerate(counts.items()):
        content = _draw_split(temporary / "images", split, number, count, settings)
        (temporary / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (temporary / MARKER).write_text(marker)
    shutil.rmtree(root, ignore_errors=True)
    temporary.rename(root)
    return True


def _draw_split(
    folder: Path, split: str, number: int, count: int, settings: DemoSettings
) -> dict[str, object]:
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    side = settings.size
    for image_id in range(count):
        random = np.random.default_rng((settings.seed, number, image_id))
        image, shapes = draw_image(random, settings)
        name = f"{split}-{image_id:04d}.jpg"
        # Not cv2.imwrite, which ends the process if the folder's name is not UTF-8.
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        (folder / name).write_bytes(jpeg.tobytes())
        images.append({"id": image_id, "file_name": name, "width": side, "height": side})
        for kind, (left, top, right, bottom) in shapes:
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": kind + 1,
                    "bbox": [round(v, 2) for v in (left, top, width, height)],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                }
            )
    names = TEXTURES if settings.is_textured else SHAPES[: settings.shapes]
    categories = [{"id": kind + 1, "name": name} for kind, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def draw_image(
    random: np.random.Generator, settings: DemoSettings
) -> tuple[np.ndarray, list[tuple[int, Box]]]:
    """One image (size, size, 3), and its shapes as (class index, box in pixels)."""
    size = settings.size
    image = _background(size, random)
    shapes: list[tuple[int, Box]] = []
    is_empty = random.random() < EMPTY_SHARE
    for sizes in settings.sizes:
        wanted = 0 if is_empty else int(random.integers(1, sizes.most + 1))
        before = len(shapes)
        for _ in range(8 * wanted):
            if len(shapes) - before == wanted:
                break
            outline = int(random.integers(settings.shapes))
            radius = random.uniform(sizes.least_radius, sizes.largest_radius) * size
            centre = random.uniform(radius, size - radius, 2)
            points = _outline(outline, radius, random) + centre
            box = (*points.min(axis=0), *points.max(axis=0))
            if max((_overlap(box, other) for _, other in shapes), default=0.0) > MAX_OVERLAP:
                continue
            texture = int(random.integers(len(TEXTURES))) if settings.is_textured else None
            _paint(image, points, random, texture)
            left, top, right, bottom = (float(np.clip(edge, 0, size)) for edge in box)
            kind = outline if texture is None else texture
            shapes.append((kind, (left, top, right, bottom)))
    return cv2.GaussianBlur(image, (3, 3), 0.6), shapes


def _background(size: int, random: np.random.Generator) -> np.ndarray:
    """A smooth two-coloured background with grain and a few thin lines as distractors."""
    coarse = random.uniform(0, 1, (4, 4)).astype(np.float32)
    blend = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    one, other = random.uniform(40, 215, 3), random.uniform(40, 215, 3)
    ground = one * blend + other * (1 - blend) + random.normal(0, 8, (size, size, 1))
    image = np.clip(ground, 0, 255).astype(np.uint8)
    for _ in range(int(random.integers(0, 4))):
        start, end = random.integers(0, size, (2, 2))
        cv2.line(image, start.tolist(), end.tolist(), _colour(random), 1, cv2.LINE_AA)
    return image


def _outline(kind: int, radius: float, random: np.random.Generator) -> np.ndarray:
    """Corner points (K, 2) of a shape around the origin, turned at random."""
    corners, inner = OUTLINES[kind]
    angles = np.arange(corners) * 2 * np.pi / corners + random.uniform(0, 2 * np.pi)
    radii = np.full(corners, radius)
    radii[1::2] *= inner
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]


def _paint(
    image: np.ndarray, points: np.ndarray, random: np.random.Generator, texture: int | None
) -> None:
    outline = np.round(points * 16).astype(np.int32)  # in 1/16 pixels, see `shift`
    colour = _colour(random)
    darker = tuple(0.55 * channel for channel in colour)
    cv2.fillPoly(image, [outline], colour, cv2.LINE_AA, shift=4)
    if texture is not None:
        inside = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(inside, [outline], 1, shift=4)
        rows, columns = inside.nonzero()
        is_dark = _is_dark(texture, rows, columns)
        shades = random.uniform(1 - BLOTCH_SHADE, 1, -(-np.array(inside.shape) // BLOTCH))
        fill = (
            np.where(is_dark[:, None], darker, colour)
            * shades[rows // BLOTCH, columns // BLOTCH, None]
        )
        image[rows, columns] = fill.astype(np.uint8)
    cv2.polylines(image, [outline], True, darker, 2, cv2.LINE_AA, shift=4)


def _is_dark(texture: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Which pixels of a texture have the darker of its two brightnesses."""
    half = TEXTURE_PERIOD // 2
    row, column = rows // half, columns // half
    return (row, column, row + column)[texture] % 2 == 0


def _colour(random: np.random.Generator) -> tuple[float, ...]:
    hsv = np.array([[[random.integers(180), random.integers(140, 256), random.integers(150, 256)]]])
    return tuple(float(c) for c in cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)[0, 0])


def _overlap(one: Box, other: Box) -> float:
    """Intersection over the smaller area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return max(width, 0) * max(height, 0) / min(areas)


def main() -> None:
    """Draw the demo data set, unless it is there already."""
    parser = argparse.ArgumentParser(prog="python -m yolo.data.demo", description=main.__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/demo"))
    parser.add_argument("--train-images", type=int, default=DemoSettings().train_images)
    parser.add_argument("--val-images", type=int, default=DemoSettings().val_images)
    parser.add_argument("--shapes", type=int, default=DemoSettings().shapes, choices=range(1, 7))
    options = parser.parse_args()
    settings = DemoSettings(options.train_images, options.val_images, shapes=options.shapes)
    options.root.parent.mkdir(parents=True, exist_ok=True)
    if generate_demo(options.root, settings):
        print(f"drew {settings.train_images} + {settings.val_images} images into {options.root}")


if __name__ == "__main__":
    main()
