"""The YOLO format: a data.yaml, and per image one text file with lines `class cx cy w h`."""

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np

from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord, Problem, clean_boxes
from yolo.data.image import IMAGE_SUFFIXES
from yolo.data.image.decode import UnusableImage, image_size
from yolo.errors import DataError, RecipeError
from yolo.recipe.load.safe_read import MOST_LABEL_BYTES, read_text
from yolo.recipe.load.yaml_source import read_document


def read_yolo(data_yaml: Path, split: str) -> DetectionDataset:
    """Read one split (`train`, `val` or `test`) of a data.yaml.

    Malformed lines are counted in the data set's report. Raises DataError if nothing can be read.
    """
    content = read_data_yaml(data_yaml)
    names, images = class_names(content, data_yaml), images_of_split(content, data_yaml, split)
    report = DataReport(f"{data_yaml} ({split})", images=len(images))
    records = []
    for image_id, path in enumerate(images):
        try:
            width, height = image_size(path)
            labels = _labels(label_path(path), len(names), report)
        except UnusableImage as error:
            report.add(error.problem, str(error))
            continue
        scaled = labels[:, 1:] * np.array([width, height, width, height])
        center, half = scaled[:, :2], scaled[:, 2:] / 2
        table = np.column_stack([center - half, center + half, labels[:, 0], np.zeros(len(labels))])
        cleaned = clean_boxes(table, width, height, path.name, report)
        records.append(ImageRecord(image_id, path, width, height, *cleaned))
    if not records:
        lines = "\n  ".join(report.lines())
        raise DataError(f"{data_yaml}: `{split}` holds no image that can be used\n  {lines}")
    return DetectionDataset(report.source, names, tuple(range(len(names))), tuple(records), report)


def class_names(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The class names of a data.yaml in order. Raises DataError if they are invalid."""
    names = content.get("names")
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]  # keys stay strings
        if set(names) != set(numbers):
            raise DataError(
                f"{path}: names: expected the numbers 0 to {len(names) - 1}, found {', '.join(list(names)[:8])}"
            )
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: names: expected a list of class names")
    if content.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc is {content['nc']}, but names lists {len(names)} classes")
    return tuple(names)


def images_of_split(content: Mapping[str, Any], data_yaml: Path, split: str) -> list[Path]:
    """The image files of one split of a data.yaml, without opening them. Raises DataError if they cannot be listed.

    The split is a folder, a text file that lists images, or a list of either.
    """
    if split not in content:
        raise DataError(
            f"{data_yaml}: has no `{split}:`; set it to the folder of the split's images"
        )
    root = data_yaml.parent / str(content.get("path", "."))
    entry = content[split]
    files: list[Path] = []
    for place in entry if isinstance(entry, list) else [entry]:
        if not isinstance(place, str):
            raise DataError(
                f"{data_yaml}: {split}: expected a folder or a .txt list, found {shown(place)}"
            )
        path = root / place
        try:
            if path.is_dir():
                found = path.rglob("*")
                files += sorted(file for file in found if file.suffix.lower() in IMAGE_SUFFIXES)
            elif path.suffix == ".txt" and path.is_file():
                lines = map(str.strip, read_text(path, MOST_LABEL_BYTES).splitlines())
                files += [path.parent / line for line in lines if line]
            else:
                raise DataError(
                    f"{data_yaml}: {split}: {path} is neither a folder nor a .txt list of images"
                )
        except (OSError, UnicodeDecodeError) as error:  # for example a name that is too long
            raise DataError(f"{data_yaml}: {split}: {path}: cannot be read: {error}") from error
    return files


def label_path(image: Path) -> Path:
    """images/a/b.jpg -> labels/a/b.txt: the last folder named `images` becomes `labels`."""
    *folders, name = image.parts
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, name).with_suffix(".txt")


def read_data_yaml(path: Path) -> Mapping[str, Any]:
    """Read as a recipe is: plain values only, unique keys, limited size. Raises DataError if it cannot be read."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file; with data.format yolo, data.train and data.val name a data.yaml"
        )
    try:
        content = read_document(path).values
    except RecipeError as error:
        raise DataError(str(error)) from error
    if not content:
        raise DataError(f"{path}: expected `train:`, `val:` and `names:`")
    return content


def _labels(path: Path, classes: int, report: DataReport) -> np.ndarray:
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
        try:
            values = [float(word) for word in line.split()]
            is_box = len(values) == 5 and all(abs(value) <= 10 for value in values[1:])
            if not is_box or values[0] != int(values[0]) or min(values[3:]) < 0:
                raise ValueError(line)
        except (ValueError, OverflowError):
            report.add(
                Problem.MALFORMED_BOX, f"{path}:{number}: {line[:60]!r}, expected `class cx cy w h`"
            )
            continue
        if not 0 <= values[0] < classes:
            report.add(Problem.UNKNOWN_CLASS, f"{path}:{number}: class {values[0]:g} of {classes}")
            continue
        rows.append(values)
    return np.array(rows, dtype=np.float64).reshape(-1, 5)
