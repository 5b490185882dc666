"""The label files of the YOLO format: per image one text file with lines `class cx cy w h`."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord, Problem, clean_boxes
from yolo.data.formats.data_yaml import DataYaml
from yolo.data.image.decode import UnusableImage, image_size
from yolo.data.other_files import report_other_files
from yolo.errors import DataError
from yolo.recipe.load.safe_read import MOST_LABEL_BYTES, read_text

LARGEST_SHARE = 2.0
"""A box may reach out of its image, but not this far: larger values are pixels."""
BOX_FORM = "expected `class cx cy w h`, or a polygon `class x1 y1 x2 y2 x3 y3 ...`"


def read_yolo(data_yaml: Path, split: str) -> DetectionDataset:
    """Read one split (`train`, `val` or `test`) of a data.yaml.

    Malformed lines are counted in the data set's report. Raises DataError if nothing can be read.
    """
    content = DataYaml.read(data_yaml)
    names, files = content.class_names, content.files(split)
    report = DataReport(f"{data_yaml} ({split})", images=len(files.images))
    records = []
    for image_id, path in enumerate(files.images):
        try:
            width, height = image_size(path)
            labels = _labels(label_path(path), len(names), content.keypoint_values, report)
        except UnusableImage as error:
            report.add(error.problem, str(error))
            continue
        scaled = labels[:, 1:] * np.array([width, height, width, height])
        center, half = scaled[:, :2], scaled[:, 2:] / 2
        table = np.column_stack([center - half, center + half, labels[:, 0], np.zeros(len(labels))])
        cleaned = clean_boxes(table, width, height, path.name, report)
        records.append(ImageRecord(image_id, path, width, height, *cleaned))
    if files.folders:
        images = [*files.images, *(path for each in files.folders for path in each.unread)]
        report_other_files(files.folders, map(label_path, images), report)
    if not records:
        lines = "\n  ".join(report.lines())
        raise DataError(f"{data_yaml}: `{split}` holds no image that can be used\n  {lines}")
    return DetectionDataset(report.source, names, tuple(range(len(names))), tuple(records), report)


def label_path(image: Path) -> Path:
    """images/a/b.jpg -> labels/a/b.txt: the last folder named `images` becomes `labels`."""
    *folders, name = image.parts
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, name).with_suffix(".txt")


def _labels(path: Path, classes: int, keypoint_values: int, report: DataReport) -> np.ndarray:
    """Rows (M, 5) class cx cy w h, normalised; a missing file means an image without boxes."""
    try:
        lines = read_text(path, MOST_LABEL_BYTES).splitlines()
    except FileNotFoundError:
        report.add(Problem.NO_LABELS, str(path))
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableImage(f"{path}: {error}", Problem.MALFORMED_LABELS) from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        report.boxes += 1
        place = f"{path}:{number}"
        try:
            category, values = _numbers(line)
            box, note = _box(values, keypoint_values)
        except (ValueError, OverflowError) as error:
            report.add(Problem.MALFORMED_BOX, f"{place}: {line[:60]!r}: {error}")
            continue
        if not 0 <= category < classes:
            report.add(Problem.UNKNOWN_CLASS, f"{place}: class {category} of {classes}")
            continue
        if note is not None:
            report.add(note, f"{place}: {len(values) + 1} values")
        rows.append([category, *box])
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def _numbers(line: str) -> tuple[int, list[float]]:
    """A row's class and its other values. Raises ValueError with the reason."""
    values = []
    for word in line.split():
        try:
            values.append(float(word))
        except ValueError as error:
            raise ValueError(f"{word[:20]!r} is no number; {BOX_FORM}") from error
    category = int(values[0])
    if values[0] != category:
        raise ValueError(f"class {values[0]} is no whole number")
    return category, values[1:]


def _box(values: Sequence[float], keypoint_values: int) -> tuple[Sequence[float], Problem | None]:
    """`cx cy w h` of a row, and what was made of it to get there. Raises ValueError with the reason."""
    has_keypoints = 0 < keypoint_values == len(values) - 4
    if len(values) == 5:
        raise ValueError(f"6 values are a prediction with its confidence; {BOX_FORM}")
    is_box, is_polygon = len(values) == 4, len(values) >= 6 and len(values) % 2 == 0
    if not (has_keypoints or is_box or is_polygon):
        raise ValueError(f"{len(values) + 1} values; {BOX_FORM}")
    coordinates = values[:4] if has_keypoints else values
    if not all(map(math.isfinite, coordinates)):
        raise ValueError(f"a value is not finite; {BOX_FORM}")
    if max(map(abs, coordinates)) > LARGEST_SHARE:
        raise ValueError("values in pixels; divide them by the image's width and height")
    if is_polygon and not has_keypoints:
        left, right = min(values[::2]), max(values[::2])
        top, bottom = min(values[1::2]), max(values[1::2])
        box = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        return box, Problem.POLYGON
    if min(coordinates[2:]) < 0:
        raise ValueError(f"a negative width or height; {BOX_FORM}")
    return coordinates, Problem.KEYPOINTS if has_keypoints else None
