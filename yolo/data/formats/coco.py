"""COCO JSON: one file of images, categories and annotations per split.

Values that can be meant in one way only are read so: ids as text or as 1.0, sides as 640.0, `iscrowd: null`.
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePath
from reprlib import repr as shown
from typing import Any, NamedTuple
from urllib.parse import urlparse

import numpy as np

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord, Problem, clean_boxes
from yolo.data.location import YAML_SUFFIXES
from yolo.data.plausibility import refuse_misread_boxes
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_ANNOTATION_BYTES, read_text
from yolo.recipe.plain_text import is_plain, names_a_file

Row = tuple[float, float, float, float, int, bool, float]
"""A box xyxy in pixels, its class index, whether it holds a crowd, and the object's area in square pixels."""
Key = int | str
"""An id: an integer, if it can be read as one."""

MAX_ID = 2**63 - 1
"""COCO's metric stores image and category ids in 64 bits."""

MAX_NAME, MAX_PATH = 255, 1024
"""Bytes of a file name on usual file systems, and of a path within the image folder."""
MAX_SIDE = 10**6
"""Pixels."""


class _Image(NamedTuple):
    key: Key
    name: str
    width: int
    height: int


def read_coco(annotations: Path, *folders: Path) -> DetectionDataset:
    """Read the split in a COCO annotation file; of several folders, the first that has one of the first ten images.

    Malformed entries are counted in the data set's report. Raises DataError if nothing can be read.
    """
    content = _load(annotations)
    report = DataReport(str(annotations), len(content["images"]), len(content["annotations"]))
    names = _categories(content["categories"], annotations)
    boxes = _boxes_by_image(content["annotations"], list(names), report)
    images = list(_images(content["images"], report))
    ids = _numbered([image.key for image in images])
    if len(ids) != len(images):
        [(key, _)] = Counter(image.key for image in images).most_common(1)
        raise DataError(
            f"{annotations}: two images have the same id {shown(key)}; each `id` must be unique"
        )
    folder = _folder_of_images(images, folders)
    tables = [
        np.array(boxes.pop(image.key, []), dtype=np.float64).reshape(-1, 7) for image in images
    ]
    sizes = np.array([image[2:] for image in images], dtype=np.float64).reshape(-1, 2)
    refuse_misread_boxes([table[:, :4] for table in tables], sizes, report)
    records = []
    for (key, name, width, height), table in zip(images, tables, strict=True):
        cleaned = clean_boxes(table, width, height, name, report)
        records.append(ImageRecord(ids[key], folder / name, width, height, *cleaned))
    for unknown, rows in boxes.items():
        for _ in rows:
            report.add(Problem.UNKNOWN_IMAGE, f"image_id {unknown}")
    if not records:
        lines = "\n  ".join(["", *report.lines()])
        raise DataError(
            f"{annotations}: names no image that can be used; see `images` in it{lines}"
        )
    categories = tuple(_numbered(list(names)).values())
    return DetectionDataset(
        str(annotations), tuple(names.values()), categories, tuple(records), report
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
        hint = "; for a data.yaml set data.format=yolo" if path.suffix in YAML_SUFFIXES else ""
        raise DataError(f"{path}: is not JSON: {error}{hint}") from error
    if isinstance(content, dict) and content.get("annotations") is None:
        content["annotations"] = []  # a test split's
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


def _categories(entries: list[Any], path: Path) -> dict[Key, str]:
    """Names by category id, in ascending order of the ids; ids that are words stay in the file's order."""
    names: dict[Key, str] = {}
    for entry in entries:
        key = _key(entry.get("id")) if isinstance(entry, dict) else None
        if key is None or not _is_name(entry.get("name")) or key in names:
            raise DataError(
                f"{path}: category {json.dumps(entry)[:80]}: expected its own `id` and a `name`"
            )
        names[key] = entry["name"]
    if not names:
        raise DataError(f"{path}: has no categories, so there is nothing to learn")
    numbers = _numbered(list(names))
    return dict(sorted(names.items(), key=lambda item: numbers[item[0]]))


def _numbered(keys: Sequence[Key]) -> dict[Key, int]:
    """An integer per id: itself, or its position if some ids are words."""
    if all(isinstance(key, int) for key in keys):
        return {key: int(key) for key in keys}
    return {key: number for number, key in enumerate(keys)}


def _key(value: object) -> Key | None:
    """An id, equal for 1, 1.0 and "1"; None if it is none."""
    if type(value) is int:
        return value if abs(value) <= MAX_ID else None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if not isinstance(value, str) or not _is_name(value) or len(value) > MAX_NAME:
        return None
    return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value


def _is_number(value: object) -> bool:
    # The limit is false for infinity, NaN and a number of 400 digits.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e7


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and is_plain(value)


def _file_name(value: object) -> str | None:
    """A path below the image folder, else None: a downloaded data set must not choose other files to read.

    Of an absolute path or a URL, which are another machine's, the file's own name.
    """
    if not isinstance(value, str) or not names_a_file(value):
        return None
    name = value.replace("\\", "/")
    if re.match(r"/|[A-Za-z]:/|[a-z][a-z0-9+.-]+://", name):
        name = PurePath(urlparse(name).path if "://" in name else name).name
    path = PurePath(name)
    fits = name != "" and len(os.fsencode(path)) <= MAX_PATH
    fits &= all(len(os.fsencode(part)) <= MAX_NAME for part in path.parts)
    return name if fits and ".." not in path.parts else None


def _images(entries: list[Any], report: DataReport) -> Iterator[_Image]:
    for index, entry in enumerate(entries):
        try:
            yield _image(entry)
        except ValueError as error:
            report.add(Problem.MALFORMED_IMAGE, f"images[{index}]{error}")


def _image(entry: Any) -> _Image:
    """Raises ValueError with field, value and what was expected."""
    if not isinstance(entry, dict):
        raise ValueError(f": found {shown(entry)}, expected an object")
    key, name = _key(entry.get("id")), _file_name(entry.get("file_name"))
    if key is None:
        raise ValueError(f".id: found {shown(entry.get('id'))}, expected a number")
    if name is None:
        found = shown(entry.get("file_name"))
        raise ValueError(f".file_name: found {found}, expected a path below the image folder")
    sides = []
    for side in ("width", "height"):
        pixels = _key(entry.get(side))
        if not isinstance(pixels, int) or not 0 < pixels < MAX_SIDE:
            raise ValueError(f".{side}: found {shown(entry.get(side))}, expected pixels")
        sides.append(pixels)
    return _Image(key, name, *sides)


def _folder_of_images(images: Sequence[_Image], folders: Sequence[Path]) -> Path:
    names = [image.name for image in islice(images, 10)]
    matching = (folder for folder in folders if any((folder / name).is_file() for name in names))
    return next(matching, folders[0])


def _boxes_by_image(
    entries: list[Any], categories: list[Key], report: DataReport
) -> dict[Key, list[Row]]:
    class_of = {category: index for index, category in enumerate(categories)}
    boxes: dict[Key, list[Row]] = defaultdict(list)
    for index, entry in enumerate(entries):
        place = f"annotations[{index}]"
        try:
            image, row = _annotation(entry, class_of)
        except ValueError as error:
            report.add(Problem.MALFORMED_BOX, f"{place}{error}")
        except KeyError:
            found = shown(entry.get("category_id"))
            report.add(
                Problem.UNKNOWN_CLASS, f"{place}.category_id: found {found}, which is no category"
            )
        else:
            boxes[image].append(row)
            if not entry.get("bbox"):
                report.add(Problem.POLYGON, f"{place}.segmentation")
    return boxes


def _annotation(entry: Any, class_of: Mapping[Key, int]) -> tuple[Key, Row]:
    """An annotation's image and box.

    Raises ValueError with field, value and what was expected, or KeyError if its category is unknown.
    """
    if not isinstance(entry, dict):
        raise ValueError(f": found {shown(entry)}, expected an object")
    x, y, w, h = _xywh(entry)
    image, category = _key(entry.get("image_id")), _key(entry.get("category_id"))
    if image is None:
        raise ValueError(f".image_id: found {shown(entry.get('image_id'))}, expected an image's id")
    is_crowd = entry.get("iscrowd")
    if is_crowd not in (None, 0, 1):
        raise ValueError(f".iscrowd: found {shown(is_crowd)}, expected 0 or 1")
    if category is None:
        raise KeyError
    stated: Any = entry.get("area")  # the outline's, about half of the box in COCO's own files
    area = stated if _is_number(stated) and stated > 0 else w * h
    return image, (x, y, x + w, y + h, class_of[category], bool(is_crowd), area)


def _xywh(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The box, or without one the outline's. Raises ValueError as `_annotation`."""
    box, outlines = entry.get("bbox"), entry.get("segmentation")
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        return box[0], box[1], box[2], box[3]
    if box is not None and box != []:
        raise ValueError(f".bbox: found {shown(box)}, expected [x, y, width, height] in pixels")
    if isinstance(outlines, dict):
        raise ValueError(
            ".bbox: is missing, and the segmentation is run-length encoded; add `bbox`"
        )
    parts = outlines if isinstance(outlines, list) else []
    points = [value for part in parts if isinstance(part, list) for value in part]
    if len(points) < 6 or len(points) % 2 or not all(map(_is_number, points)):
        raise ValueError(f".bbox: found {shown(box)}, and no polygon in its place; add `bbox`")
    left, top = min(points[::2]), min(points[1::2])
    return left, top, max(points[::2]) - left, max(points[1::2]) - top
