"""How much a recipe trains on: read from its data where they are here, else taken for COCO's."""

import json
from pathlib import Path

from yolo.planner.network import CLASSES
from yolo.planner.prediction import Data
from yolo.recipe.schema import Recipe

COCO_IMAGES = 118_287
"""Of train2017."""
LARGEST_BYTES = 30_000_000
"""Of an annotation file that is read for two numbers; COCO's own takes seconds."""


def data_of(recipe: Recipe, images: int | None = None, classes: int | None = None) -> Data:
    """What is given, else what the annotations say, else COCO's numbers."""
    found = _of_annotations(Path(recipe.data.root) / recipe.data.train, recipe.data.format)
    found = found or Data(COCO_IMAGES, CLASSES)
    return Data(images or found.images, classes or found.classes)


def _of_annotations(path: Path, kind: str) -> Data | None:
    if kind != "coco" or not path.is_file() or path.stat().st_size > LARGEST_BYTES:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Data(len(content["images"]), max(1, len(content["categories"])))
    except (ValueError, KeyError, TypeError):
        return None  # training says what is wrong with it
