"""COCO JSON: one file of images, categories and annotations a split."""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord, Problem, clean_boxes
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_ANNOTATION_BYTES, read_text
from yolo.recipe.plain_text import is_plain

AnnotationRow = tuple[list[float], int, bool, float]
"""A box xyxy in pixels, its class index, whether it holds a crowd, and the object's area in square pixels."""

HIGHEST_ID = 2**63 - 1
"""What COCO's metric counts images and categories in."""

LONGEST_NAME, LONGEST_PATH = 255, 1024
"""Bytes of a file's name on any usual file system, and of a path within the folder of images."""


def read_coco(annotations: Path, *folders: Path) -> DetectionDataset:
    """The split in a COCO annotation file, its images in a folder: of several, the first that holds one of the first ten.

    What is malformed is counted in the data set's report. Raises DataError where nothing can be read.
    """
    content = _load(annotations)
    report = DataReport(str(annotations), boxes=len(content["annotations"]))
    names = _categories(content["categories"], annotations)
    index_of = {category: index for index, category in enumerate(names)}
    boxes = _boxes_by_image(content, index_of, report)
    images = _folder_of_images(content["images"], folders)
    records = []
    for entry in content["images"]:
        report.images += 1
        if not _is_image(entry):
            report.add(Problem.MALFORMED_IMAGE, json.dumps(entry)[:120])
            continue
        rows = boxes.pop(entry["id"], [])
        xyxy = np.array([row[0] for row in rows], dtype=np.float64).reshape(-1, 4)
        classes = np.array([row[1] for row in rows], dtype=np.int64)
        crowd = np.array([row[2] for row in rows], dtype=bool)
        areas = np.array([row[3] for row in rows], dtype=np.float64)
        width, height, name = int(entry["width"]), int(entry["height"]), entry["file_name"]
        cleaned = clean_boxes(xyxy, classes, crowd, width, height, name, report, areas)
        records.append(ImageRecord(entry["id"], images / name, width, height, *cleaned))
    for image_id, rows in boxes.items():
        for _ in rows:
            report.add(Problem.UNKNOWN_IMAGE, f"image_id {image_id}")
    ids = {record.image_id for record in records}
    if len(ids) != len(records):
        raise DataError(
            f"{annotations}: two images have the same id; every `id` must be there once"
        )
    if not records:
        raise DataError(f"{annotations}: names no image that can be used; see `images` in it")
    return DetectionDataset(
        str(annotations), tuple(names.values()), tuple(names), tuple(records), report
    )


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        text = read_text(path, MOST_ANNOTATION_BYTES)
        content: dict[str, list[Any]] = json.loads(text, object_pairs_hook=_each_key_once)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; set data.root, data.train and data.val") from error
    except IsADirectoryError as error:
        raise DataError(
            f"{path}: is a folder; expected a file such as {path / 'annotations' / 'instances_val.json'} or a data.yaml"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{path}: is not in COCO format: expected an object with a list `{key}`"
            )
    return content


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that stands twice Python would take the last, and lose what the first one holds."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _categories(entries: list[Any], path: Path) -> dict[int, str]:
    """Names by category id, in ascending order of the ids."""
    names: dict[int, str] = {}
    for entry in entries:
        is_sound = isinstance(entry, dict) and _is_name(entry.get("name"))
        if not is_sound or not _is_whole(entry.get("id")) or entry["id"] in names:
            raise DataError(
                f"{path}: category {json.dumps(entry)[:80]}: expected its own `id` and a `name`"
            )
        names[entry["id"]] = entry["name"]
    if not names:
        raise DataError(f"{path}: has no categories, so there is nothing to learn")
    return dict(sorted(names.items()))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= HIGHEST_ID


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e7  # which infinity, nan and a number of 400 digits are not


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and is_plain(value)


def _is_file_name(value: object) -> bool:
    """Of a file in the folder of images: another's data set has no say in what else is read here."""
    if not _is_name(value):
        return False
    path = PurePath(str(value))
    fits = all(len(os.fsencode(part)) <= LONGEST_NAME for part in path.parts)
    fits &= len(os.fsencode(path)) <= LONGEST_PATH
    return fits and not path.is_absolute() and ".." not in path.parts


def _is_image(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and _is_whole(entry.get("id"))
        and _is_file_name(entry.get("file_name"))
        and all(
            _is_whole(entry.get(side)) and 0 < entry[side] < 10**6 for side in ("width", "height")
        )
    )


def _folder_of_images(entries: list[Any], folders: Sequence[Path]) -> Path:
    names = list(islice((entry["file_name"] for entry in entries if _is_image(entry)), 10))
    holding = (folder for folder in folders if any((folder / name).is_file() for name in names))
    return next(holding, folders[0])


def _boxes_by_image(
    content: dict[str, list[Any]], index_of: dict[int, int], report: DataReport
) -> dict[int, list[AnnotationRow]]:
    boxes: dict[int, list[AnnotationRow]] = defaultdict(list)
    for entry in content["annotations"]:
        box = entry.get("bbox") if isinstance(entry, dict) else None
        if (
            not _is_box(box)
            or not _is_whole(entry.get("image_id"))
            or entry.get("iscrowd", 0) not in (0, 1)
        ):
            report.add(Problem.MALFORMED_BOX, json.dumps(entry)[:120])
        elif not _is_whole(entry.get("category_id")) or entry["category_id"] not in index_of:
            report.add(Problem.UNKNOWN_CLASS, f"category_id {entry.get('category_id')}")
        else:
            x, y, w, h = entry["bbox"]
            category, is_crowd = index_of[entry["category_id"]], entry.get("iscrowd", 0) == 1
            stated = entry.get("area")  # of the outline, about half of the box in COCO's own files
            area = stated if _is_number(stated) and stated > 0 else w * h
            boxes[entry["image_id"]].append(([x, y, x + w, y + h], category, is_crowd, area))
    return boxes
