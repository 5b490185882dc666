"""Convert any data set that can be read into COCO JSON or the YOLO format."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from io import StringIO
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from yolo.data.dataset import DetectionDataset, ImageRecord, Problem, refuse_if_classes_differ
from yolo.data.formats.data_yaml import DataYaml
from yolo.data.formats.splits import SPLITS, by_split, coco_files, split_of
from yolo.data.formats.voc import has_splits, is_split, read_voc, split_place
from yolo.data.image.decode import UnusableImage, image_size
from yolo.data.location import YAML_SUFFIXES
from yolo.data.open import load_annotated, refuse_images
from yolo.data.progress_protocol import ProgressCallback, ProgressFactory, no_progress
from yolo.errors import DataError


class Target(StrEnum):
    """The formats that are written."""

    COCO = "coco"
    YOLO = "yolo"


def convert(
    source: Path,
    to: Target,
    out: Path,
    images: Path | None = None,
    counting: ProgressFactory = no_progress,
) -> Iterator[str]:
    """Write all splits of a data set into the folder `out`, completely or not at all; yields the lines to print.

    Source is a data.yaml, a COCO file (`images`: its image folder) or a folder of them, or a Pascal VOC folder or list.
    Images become hard links, or copies if `out` is on another file system. Raises DataError if `out` exists, or if the
    source cannot be read.
    """
    if os.path.lexists(out):
        raise DataError(f"{out}: is there already; remove it, or name another folder")
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    splits = _open(source, images)
    first = next(iter(splits.values()))
    for dataset in splits.values():
        refuse_if_classes_differ(first.class_names, first.source, dataset)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    copied, lines = 0, []
    try:
        for split, dataset in splits.items():
            with counting(f"converting {split} images", len(dataset)) as advance:
                placed, copies = _place_images(temporary / "images" / split, dataset, to, advance)
            write = _write_coco if to is Target.COCO else _write_labels
            boxes = write(temporary, split, placed, dataset)
            copied += copies
            lines += [f"warning: {line}" for line in dataset.report.lines()]
            missing = len(dataset) - len(placed)
            lines.append(
                f"{out}: {split}: {len(placed)} images, {boxes} boxes of {len(dataset.class_names)} classes"
                + (f"; {missing} images left out" if missing else "")
            )
        if to is Target.YOLO:
            _write_data_yaml(temporary, list(splits), first)
        temporary.chmod(0o755)  # readable by other users; mkdtemp's is not
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    yield from lines
    yield (
        f"{copied} images were copied"
        if copied
        else "the images are hard links: no space is used twice, and changing one changes the original"
    )
    yield f"in a recipe: {_recipe_line(out, to, list(splits))}"


def _open(source: Path, images: Path | None) -> dict[str, DetectionDataset]:
    """All splits of a data set by name. Raises DataError if there is none."""
    if (source / "data.yaml").is_file():
        source = source / "data.yaml"
    if source.suffix in YAML_SUFFIXES:
        content = DataYaml.read(source).content
        names = [split for split in ("train", "val", "test") if content.get(split)]
        return {split: load_annotated(source, split, images) for split in names or ["train"]}
    if not source.is_dir():
        return {split_of(source): load_annotated(source, images=images)}
    if files := coco_files(source):
        return {split: load_annotated(path, images=images) for split, path in files.items()}
    refuse_images(source, images)
    return _open_voc_folder(source)


def _open_voc_folder(folder: Path) -> dict[str, DetectionDataset]:
    """The splits whose names are known, or the folder if it is one split. Raises DataError if it has others only."""
    if not has_splits(folder):
        return {"train": read_voc(folder, ".")}
    names = [name for name in SPLITS if is_split(folder, name)] or ["train"]
    places = by_split(split_place(folder, name) for name in names)
    train = "train" if "train" in places else None
    return {split: read_voc(folder, place.stem, train) for split, place in places.items()}


def _place_images(
    folder: Path, dataset: DetectionDataset, to: Target, advance: ProgressCallback
) -> tuple[dict[str, ImageRecord], int]:
    """Link or copy the images that can be used; returns their records by file name, and how many were copied."""
    folder.mkdir(parents=True)
    placed, copied = {}, 0
    for record, name in _named(dataset):
        if _is_usable(record, dataset, to):
            copied += _place(record.path, folder / name)
            placed[name] = record
        advance(1)
    return placed, copied


def _named(dataset: DetectionDataset) -> Iterator[tuple[ImageRecord, str]]:
    """Each record with its file's name, with a number if folders hold files of one name: labels have the same stem."""
    used: set[str] = set()
    for record in dataset.records:
        stem, number = record.path.stem, 1
        while stem in used:
            number += 1
            stem = f"{record.path.stem}-{number}"
        used.add(stem)
        yield record, f"{stem}{record.path.suffix}"


def _is_usable(record: ImageRecord, dataset: DetectionDataset, to: Target) -> bool:
    """Whether the image is there; YOLO's shares refer to it as displayed, so there its size must be the annotated one."""
    try:
        displayed = image_size(record.path)
    except UnusableImage as error:
        dataset.report.add(error.problem, str(error))
        return False
    stated = record.width, record.height
    is_same = displayed == stated or (to is Target.COCO and displayed == stated[::-1])
    if not is_same:
        text = (
            f"{record.path}: is {displayed[0]}x{displayed[1]}, annotated as {stated[0]}x{stated[1]}"
        )
        dataset.report.add(Problem.SIZE_MISMATCH, text)
    return is_same


def _place(image: Path, target: Path) -> bool:
    """Link an image, or copy it if it cannot be linked; returns whether it was copied."""
    with suppress(OSError):  # another file system, or one without links
        os.link(image.resolve(), target)
        return False
    shutil.copyfile(image, target)
    return True


def _write_coco(
    folder: Path, split: str, placed: Mapping[str, ImageRecord], dataset: DetectionDataset
) -> int:
    """Write a split's annotation file; returns the number of its boxes."""
    annotations: list[dict[str, object]] = []
    for record in placed.values():
        rows = zip(record.boxes, record.classes, record.crowd, record.areas, strict=True)
        for (left, top, right, bottom), category, is_crowd, area in rows:
            box = (left, top, right - left, bottom - top)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.image_id,
                    "category_id": dataset.category_ids[category],
                    "bbox": [round(float(value), 3) for value in box],
                    "area": round(float(area), 3),
                    "iscrowd": int(is_crowd),
                }
            )
    images = [
        {"id": each.image_id, "file_name": name, "width": each.width, "height": each.height}
        for name, each in placed.items()
    ]
    categories = [
        {"id": number, "name": name}
        for number, name in zip(dataset.category_ids, dataset.class_names, strict=True)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return len(annotations)


def _write_labels(
    folder: Path, split: str, placed: Mapping[str, ImageRecord], dataset: DetectionDataset
) -> int:
    """Write a split's label files; returns the number of their boxes. Crowds cannot be written, and are reported."""
    (folder / "labels" / split).mkdir(parents=True)
    boxes = crowds = 0
    for name, record in placed.items():
        singles = record.boxes[~record.crowd].astype(np.float64)
        sides = singles[:, 2:] - singles[:, :2]
        rows = np.hstack([singles[:, :2] + sides / 2, sides])
        rows /= [record.width, record.height] * 2
        lines = [
            f"{category} {' '.join(f'{value:.7g}' for value in row)}\n"
            for category, row in zip(record.classes[~record.crowd], rows, strict=True)
        ]
        path = (folder / "labels" / split / name).with_suffix(".txt")
        path.write_text("".join(lines), encoding="utf-8")
        boxes += len(lines)
        crowds += int(record.crowd.sum())
    if crowds:
        dataset.report.warn(f"{crowds} crowd boxes were left out: the YOLO format has none")
    return boxes


def _write_data_yaml(folder: Path, splits: list[str], dataset: DetectionDataset) -> None:
    paths = "".join(f"{split}: images/{split}\n" for split in splits)
    yaml, names = YAML(typ="safe", pure=True), StringIO()
    yaml.default_style = '"'  # type: ignore[assignment]  # a name may be 1, yes or null
    yaml.width = sys.maxsize
    yaml.dump(list(dataset.class_names), names)
    (folder / "data.yaml").write_text(f"{paths}names:\n{names.getvalue()}", encoding="utf-8")


def _recipe_line(out: Path, to: Target, splits: list[str]) -> str:
    if to is Target.YOLO:
        return f"data: {{format: yolo, root: {out}, train: data.yaml, val: data.yaml}}"
    files = {"train": "images", "val": "val_images"}
    keys = [
        f"{split}: annotations/instances_{split}.json, {key}: images/{split}"
        for split, key in files.items()
        if split in splits
    ]
    return f"data: {{format: coco, {', '.join([f'root: {out}', *keys])}}}"
