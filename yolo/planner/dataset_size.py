"""How much a recipe trains on: read from its data where they are here, else taken for COCO's."""

import json
from pathlib import Path

from yolo.data.shards.index import local_index
from yolo.errors import DataError
from yolo.planner.cost.model_stats import CLASSES
from yolo.planner.prediction import Data
from yolo.recipe.load.safe_read import read_text
from yolo.recipe.schema.recipe import Recipe

COCO_IMAGES = 118_287
"""Of train2017."""
LARGEST_BYTES = 30_000_000
"""Of an annotation file that is read for two numbers; COCO's own takes seconds."""


def data_of(recipe: Recipe, images: int | None = None, classes: int | None = None) -> Data:
    """What is given, else what the annotations say, else COCO's numbers."""
    if recipe.data.format == "shards":
        found = _of_shards(recipe)
    else:
        found = _of_annotations(Path(recipe.data.root) / recipe.data.train, recipe.data.format)
    found = found or Data(COCO_IMAGES, CLASSES)
    return Data(images or found.images, classes or found.classes)


def _of_shards(recipe: Recipe) -> Data | None:
    try:
        index = local_index(recipe.data, "train")
    except DataError:
        return None
    return None if index is None else Data(index.images, len(index.class_names))


def _of_annotations(path: Path, kind: str) -> Data | None:
    """None where there is nothing to read, or it is wrong: training says what is."""
    try:
        return _of_yolo(path) if kind == "yolo" else _of_coco(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError):
        return None


def _of_coco(path: Path) -> Data:
    content = json.loads(read_text(path, LARGEST_BYTES))
    return Data(len(content["images"]), max(1, len(content["categories"])))


def _of_yolo(path: Path) -> Data:
    from yolo.data.yolo_txt import class_names, images_of_split  # opens OpenCV, which takes time

    return Data(len(images_of_split(path, "train")), len(class_names(path)))
