"""Size of a recipe's data set: read from its data if they are here, otherwise COCO's."""

import json
from pathlib import Path

from yolo.data.formats.data_yaml import DataYaml
from yolo.data.location import annotation_path, local_index
from yolo.errors import DataError
from yolo.planner.cost.model_stats import CLASSES
from yolo.planner.prediction import Data
from yolo.recipe.load.safe_read import read_text
from yolo.recipe.schema.recipe import Recipe

COCO_IMAGES = 118_287
"""Images of train2017."""
VOC_CLASSES = 20
"""Pascal's own: the XML files are not opened to count them, and classes hardly change the network's size."""
LARGEST_BYTES = 30_000_000
"""Largest annotation file that is read for two numbers; COCO's own takes seconds."""


def data_of(recipe: Recipe, images: int | None = None, classes: int | None = None) -> Data:
    """The given numbers, else those of the annotations, else COCO's."""
    found = _of_shards(recipe) if recipe.data.format == "shards" else _of_annotations(recipe)
    found = found or Data(COCO_IMAGES, CLASSES)
    return Data(images or found.images, classes or found.classes)


def _of_shards(recipe: Recipe) -> Data | None:
    try:
        index = local_index(recipe.data, "train")
    except DataError:
        return None
    return None if index is None else Data(index.images, len(index.class_names))


def _of_annotations(recipe: Recipe) -> Data | None:
    """None if the file is missing or wrong: training reports what is wrong with it."""
    path = annotation_path(recipe.data, "train")
    try:
        if recipe.data.format == "yolo":
            data_yaml = DataYaml.read(path)
            return Data(len(data_yaml.images("train")), len(data_yaml.class_names))
        if recipe.data.format == "voc":
            from yolo.data.formats.voc import voc_files  # slow: imports OpenCV

            images = voc_files(Path(recipe.data.root), recipe.data.train).images
            return Data(len(images), VOC_CLASSES)
        content = json.loads(read_text(path, LARGEST_BYTES))
        return Data(len(content["images"]), max(1, len(content["categories"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError):
        return None
