"""Open the splits of a recipe, or the data set of `yolo eval`."""

from pathlib import Path

from yolo.data.coco import read_coco
from yolo.data.dataset import DetectionDataset
from yolo.data.location import missing_root
from yolo.data.yolo_txt import read_yolo
from yolo.errors import DataError
from yolo.recipe.schema.recipe import ResolvedData


def load_split(section: ResolvedData, split: str) -> DetectionDataset:
    """The `train` or `val` split of a recipe's `data` section. Raises DataError if it cannot be read."""
    if section.format == "shards":
        raise DataError("data.format: is shards, which are streamed; expected coco or yolo here")
    if error_line := missing_root(section):
        raise DataError(error_line)
    root = Path(section.root)
    annotations = root / (section.train if split == "train" else section.val)
    if section.format == "yolo":
        return read_yolo(annotations, split)
    images = section.images if split == "train" else section.val_images
    return read_coco(annotations, root / images)


def load_annotated(path: Path, split: str = "val", images: Path | None = None) -> DetectionDataset:
    """A data set for evaluation. Raises DataError if it cannot be read.

    `path` is a data.yaml, of which `split` is read; a COCO annotation file, with its images in the folder `images` or
    nearby; or a list of a split or a folder in Pascal VOC's form.
    """
    if path.suffix in (".yaml", ".yml"):
        return read_yolo(path, split)
    if images is not None:
        folders = [images]
    else:
        stem = path.stem.removeprefix("instances_")
        parents = path.parent, path.parent.parent
        folders = [parent / name for name in ("images", stem) for parent in parents] + [path.parent]
    dataset = read_coco(path, *folders)
    if not any(record.path.is_file() for record in dataset.records[:10]):
        raise DataError(
            f"{path}: its images were not found; looked for the first in {', '.join(map(str, folders))}; name their folder"
        )
    return dataset
