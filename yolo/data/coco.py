"""COCO JSON: one file of images, categories and annotations per split."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord, Problem, clean_boxes
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_ANNOTATION_BYTES, read_text
from yolo.recipe.plain_text import is_plain

Row = tuple[float, float, float, float, int, bool, float]
"""A box xyxy in pixels, its class index, whether it holds a crowd, and the object's area in square pixels."""

MAX_ID = 2**63 - 1
"""COCO's metric stores image and category ids in 64 bits."""

MAX_NAME, MAX_PATH = 255, 1024
"""Bytes of a file name on usual file systems, and of a path within the image folder."""


def read_coco(annotations: Path, *folders: Path) -> DetectionDataset:
    """Read the split in a COCO annotation file; of several folders, the first that has one of the first ten images.

    Malformed entries are counted in the data set's report. Raises DataError if nothing can be read.
    """
    content = _load(annotations)
    report = DataReport(str(annotations), boxes=len(content["annotations"]))
    names = _categories(content["categories"], annotations)
    boxes = _boxes_by_image(content["annotations"], list(names), report)
    folder = _folder_of_images(content["images"], folders)
    records = []
    for entry in content["images"]:
        report.images += 1
        if not _is_image(entry):
            report.add(Problem.MALFORMED_IMAGE, json.dumps(entry)[:120])
            continue
        table = np.array(boxes.pop(entry["id"], []), dtype=np.float64).reshape(-1, 7)
        width, height, name = int(entry["width"]), int(entry["height"]), entry["file_name"]
        cleaned = clean_boxes(table, width, height, name, report)
        records.append(ImageRecord(entry["id"], folder / name, width, height, *cleaned))
    for image_id, rows in boxes.items():
        for _ in rows:
            report.add(Problem.UNKNOWN_IMAGE, f"image_id {image_id}")
    if len({record.image_id for record in records}) != len(records):
        raise DataError(f"{annotations}: two images have the same id; each `id` must be unique")
    if not records:
        raise DataError(f"{annotations}: names no image that can be used; see `images` in it")
    return DetectionDataset(
        str(annotations), tuple(names.values()), tuple(names), tuple(records), report
    )


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        text = read_text(path, MOST_ANNOTATION_BYTES)
        content: dict[str, list[Any]] = json.loads(text, object_pairs_hook=_unique_keys)
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


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python would take the last of two equal keys and lose the content of the first."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        duplicate = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"an object has the key {duplicate!r} twice")
    return unique


def _categories(entries: list[Any], path: Path) -> dict[int, str]:
    """Names by category id, in ascending order of the ids."""
    names: dict[int, str] = {}
    for entry in entries:
        is_valid = isinstance(entry, dict) and _is_name(entry.get("name"))
        if not is_valid or not _is_id(entry.get("id")) or entry["id"] in names:
            raise DataError(
                f"{path}: category {json.dumps(entry)[:80]}: expected its own `id` and a `name`"
            )
        names[entry["id"]] = entry["name"]
    if not names:
        raise DataError(f"{path}: has no categories, so there is nothing to learn")
    return dict(sorted(names.items()))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID


def _is_number(value: object) -> bool:
    # The limit is false for infinity, NaN and a number of 400 digits.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e7


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and is_plain(value)


def _is_file_name(value: object) -> bool:
    """A path below the image folder: a downloaded data set must not choose other files to read."""
    if not _is_name(value):
        return False
    path = PurePath(str(value))
    fits = len(os.fsencode(path)) <= MAX_PATH
    fits &= all(len(os.fsencode(part)) <= MAX_NAME for part in path.parts)
    return fits and not path.is_absolute() and ".." not in path.parts


def _is_image(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and _is_id(entry.get("id"))
        and _is_file_name(entry.get("file_name"))
        and all(_is_id(entry.get(side)) and 0 < entry[side] < 10**6 for side in ("width", "height"))
    )


def _folder_of_images(entries: list[Any], folders: Sequence[Path]) -> Path:
    names = list(islice((entry["file_name"] for entry in entries if _is_image(entry)), 10))
    matching = (folder for folder in folders if any((folder / name).is_file() for name in names))
    return next(matching, folders[0])


def _boxes_by_image(
    entries: list[Any], categories: list[int], report: DataReport
) -> dict[int, list[Row]]:
    class_of = {category: index for index, category in enumerate(categories)}
    boxes: dict[int, list[Row]] = defaultdict(list)
    for entry in entries:
        box = entry.get("bbox") if isinstance(entry, dict) else None
        is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
        if not is_box or not _is_id(entry.get("image_id")) or entry.get("iscrowd", 0) not in (0, 1):
            report.add(Problem.MALFORMED_BOX, json.dumps(entry)[:120])
        elif not _is_id(entry.get("category_id")) or entry["category_id"] not in class_of:
            report.add(Problem.UNKNOWN_CLASS, f"category_id {entry.get('category_id')}")
        else:
            x, y, w, h = entry["bbox"]
            label, is_crowd = class_of[entry["category_id"]], entry.get("iscrowd", 0) == 1
            stated = entry.get("area")  # the outline's, about half of the box in COCO's own files
            area = stated if _is_number(stated) and stated > 0 else w * h
            boxes[entry["image_id"]].append((x, y, x + w, y + h, label, is_crowd, area))
    return boxes
