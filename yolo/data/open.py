"""Opening the splits that a recipe names, or the data set of `yolo eval`."""

from pathlib import Path

from yolo.data.coco import read_coco
from yolo.data.dataset import DetectionDataset
from yolo.data.location import missing_root
from yolo.data.yolo_txt import read_yolo
from yolo.errors import DataError
from yolo.recipe.schema.recipe import ResolvedData


def load_split(section: ResolvedData, split: str) -> DetectionDataset:
    """The `train` or `val` split of a recipe's `data` section.

    Raises DataError where it cannot be read.
    """
    if section.format == "shards":
        raise DataError("data.format: is shards, which are streamed; expected coco or yolo here")
    if lack := missing_root(section):
        raise DataError(lack)
    root = Path(section.root)
    annotations = root / (section.train if split == "train" else section.val)
    if section.format == "yolo":
        return read_yolo(annotations, split)
    images = section.images if split == "train" else section.val_images
    return read_coco(annotations, root / images)


def load_annotated(path: Path) -> DetectionDataset:
    """A COCO annotation file with its image folder near it, or the `val` split of a data.yaml.

    Raises DataError where it cannot be read.
    """
    if path.suffix in (".yaml", ".yml"):
        return read_yolo(path, "val")
    stem = path.stem.removeprefix("instances_")
    places = (
        *(path.parent / "images", path.parent.parent / "images"),
        *(path.parent / stem, path.parent.parent / stem, path.parent),
    )
    dataset = read_coco(path, *places)
    if not any(record.path.is_file() for record in dataset.records[:10]):
        raise DataError(
            f"{path}: its images were not found; looked for the first in "
            + ", ".join(str(folder) for folder in places)
        )
    return dataset
