"""Open the splits of a recipe, or the data set of `yolo eval`."""

from pathlib import Path

from yolo.data.coco import read_coco
from yolo.data.dataset import DetectionDataset
from yolo.data.location import YAML_SUFFIXES, annotation_path, missing_root
from yolo.data.voc import LISTS, is_split, read_voc
from yolo.data.yolo_txt import read_yolo
from yolo.errors import DataError
from yolo.recipe.schema.recipe import ResolvedData


def load_split(section: ResolvedData, split: str) -> DetectionDataset:
    """The `train` or `val` split of a recipe's `data` section. Raises DataError if it cannot be read."""
    if section.format == "shards":
        raise DataError(
            "data.format: is shards, which are streamed; expected coco, yolo or voc here"
        )
    if error_line := missing_root(section):
        raise DataError(error_line)
    root = Path(section.root)
    if section.format == "voc":
        return read_voc(root, section.train if split == "train" else section.val, section.train)
    annotations = annotation_path(section, split)
    if section.format == "yolo":
        return read_yolo(annotations, split)
    images = section.images if split == "train" else section.val_images
    return read_coco(annotations, root / images)


def load_annotated(path: Path, split: str = "val", images: Path | None = None) -> DetectionDataset:
    """A data set for evaluation. Raises DataError if it cannot be read.

    `path` is a data.yaml, of which `split` is read; a COCO annotation file, with its images in the folder `images` or
    nearby; or a list of a split or a folder in Pascal VOC's form.
    """
    if path.is_dir() and (path / "data.yaml").is_file():
        path = path / "data.yaml"
    if path.suffix in YAML_SUFFIXES:
        return read_yolo(path, split)
    if path.suffix == ".txt" or path.is_dir():
        return _read_voc(path, split)
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


def _read_voc(path: Path, split: str) -> DetectionDataset:
    """A list, in ImageSets/Main or elsewhere; the data set's folder, of which `split` is read; or a folder of images and XML files."""
    if path.suffix == ".txt" and path.parent.parts[-2:] == LISTS.parts:
        root = path.parents[len(LISTS.parts)]
        return read_voc(root, path.stem, _training_split(root))
    if is_split(path, split):
        return read_voc(path, split, _training_split(path))
    return read_voc(path.parent, path.name, _training_split(path.parent))


def _training_split(root: Path) -> str | None:
    """The split whose classes were learned, if it is there."""
    return "train" if is_split(root, "train") else None
