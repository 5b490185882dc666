"""What of a recipe's data would stop or spoil a run, found without decoding every image; for `yolo check`."""

from pathlib import Path

from yolo.data.dataset import refuse_if_bad, refuse_if_classes_differ, refuse_without_boxes
from yolo.data.formats.data_yaml import DataYaml
from yolo.data.formats.voc import voc_files
from yolo.data.location import annotation_path
from yolo.data.open import load_split
from yolo.data.plausibility import warn_of_splits
from yolo.errors import DataError
from yolo.recipe.schema.recipe import ResolvedData

LARGEST_BYTES = 50_000_000
"""Annotation files up to this size are read; COCO's own of 450 MB takes ten seconds."""
MOST_IMAGES = 2_000
"""Data sets of more images are only listed: each has a header and labels to read."""
FIRST = 100
"""Images that are looked for."""


def inspect(data: ResolvedData, image_size: int) -> list[str]:
    """Warnings about both splits, as a run would log them; decodes only a sample of what may have 16 bits.

    Of a large data set only the lists are read, and a line says so. Raises DataError for what would stop a run.
    """
    if data.format == "shards":
        return []
    if unread := _too_large(data):
        return [unread]
    train, val = load_split(data, "train"), load_split(data, "val")
    warn_of_splits(train, val, image_size)
    for split, dataset in (("train", train), ("val", val)):
        refuse_if_bad(dataset.report, data.max_bad_share)
        first = [record.path for record in dataset.records[:FIRST]]
        if not any(map(Path.is_file, first)):
            raise DataError(
                f"data.{split}: {dataset.source}: none of its images was found, such as {first[0]}"
            )
    refuse_if_classes_differ(train.class_names, train.source, val)
    refuse_without_boxes(train.source, train.box_count, train.report)
    return [line for dataset in (train, val) for line in dataset.report.lines()]


def _too_large(data: ResolvedData) -> str | None:
    """A line if the data set is too large to be read here. Raises DataError if its images cannot be listed."""
    images = {"train": 0, "val": 0}
    for split in images:
        path = annotation_path(data, split)
        if data.format == "coco":
            if path.is_dir():
                raise DataError(f"data.{split}: {path}: is a folder; expected a COCO file in it")
            if path.stat().st_size > LARGEST_BYTES:
                return f"{path}: has {path.stat().st_size // 10**6} MB and was not opened"
        elif data.format == "yolo":
            data_yaml = DataYaml.read(path)
            images[split] = len(data_yaml.images(split)) if data_yaml.class_names else 0
        else:
            images[split] = len(voc_files(Path(data.root), getattr(data, split)).images)
    total = sum(images.values())
    if total <= MOST_IMAGES:
        return None
    for split, count in images.items():
        if not count:
            raise DataError(f"data.{split}: {annotation_path(data, split)}: holds no images")
    return f"{data.root}: {total} images were listed, but their labels were not read"
