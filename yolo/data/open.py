"""Open the splits of a recipe, or the data set of `yolo eval`."""

from collections.abc import Mapping
from pathlib import Path

from yolo.data.dataset import DetectionDataset
from yolo.data.formats.coco import read_coco
from yolo.data.formats.splits import coco_files
from yolo.data.formats.voc import LISTS, has_splits, is_split, read_voc
from yolo.data.formats.yolo_txt import read_yolo
from yolo.data.location import YAML_SUFFIXES, annotation_path, missing_root
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


def load_annotated(
    path: Path, split: str | None = None, images: Path | None = None
) -> DetectionDataset:
    """A data set for evaluation. Raises DataError if it cannot be read, or if `split` or `images` has no use.

    `path` is a data.yaml or the folder of a data set in COCO or Pascal VOC form, of which `split` is read (default val);
    a COCO annotation file; or a list or folder of one VOC split. A COCO file's images are in the folder `images`, by
    default nearby.
    """
    if path.is_dir() and (path / "data.yaml").is_file():
        path = path / "data.yaml"
    elif path.is_dir() and (files := coco_files(path)):
        path, split = _file_of(files, split or "val"), None
    if path.suffix in YAML_SUFFIXES:
        refuse_images(path, images)
        return read_yolo(path, split or "val")
    if split is not None and path.is_file():
        raise DataError(
            f"{path}: is one split, so --split {split} has no use; leave it out, or name the data set's folder or data.yaml"
        )
    if path.suffix == ".txt" or path.is_dir():
        refuse_images(path, images)
        root, name = _voc_split(path, split)
        return read_voc(root, name, "train" if is_split(root, "train") else None)
    return _read_coco_file(path, images)


def refuse_images(path: Path, images: Path | None) -> None:
    """Raise DataError if an image folder is given for data of another format than COCO, which say where their images are."""
    if images is not None:
        raise DataError(
            f"{path}: says itself where its images are, so --images {images} has no use; leave it out: it is for COCO files"
        )


def _file_of(files: Mapping[str, Path], split: str) -> Path:
    """A split's annotation file. Raises DataError that names those that are there."""
    if split not in files:
        folder = next(iter(files.values())).parent
        raise DataError(
            f"{folder / f'instances_{split}.json'}: no such file; splits there: {', '.join(files)}"
        )
    return files[split]


def _voc_split(path: Path, split: str | None) -> tuple[Path, str]:
    """A VOC data set's folder and its split.

    `path`: a list, in ImageSets/Main or elsewhere; the data set's folder; or a folder of images and XML files.
    """
    if path.suffix == ".txt" and path.parent.parts[-2:] == LISTS.parts:
        return path.parents[len(LISTS.parts)], path.stem
    if path.is_dir() and (split is not None or has_splits(path)):
        return path, split or "val"
    return path.parent, path.name


def _read_coco_file(path: Path, images: Path | None) -> DetectionDataset:
    if images is not None:
        folders = [images]
    else:
        stem = path.stem.removeprefix("instances_")
        names, parents = ("images", f"images/{stem}", stem), (path.parent, path.parent.parent)
        folders = [parent / name for name in names for parent in parents] + [path.parent]
    dataset = read_coco(path, *folders)
    if not any(record.path.is_file() for record in dataset.records[:10]):
        raise DataError(
            f"{path}: its images were not found; looked for the first in {', '.join(map(str, folders))}; name their folder"
        )
    return dataset
