"""Which split a file or folder holds, by the names that data sets use."""

import re
from collections.abc import Iterable
from pathlib import Path

from yolo.errors import DataError

SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
"""Names of splits in data sets -> ours."""


def split_of(path: Path) -> str:
    """The split named by a word of a file's name, such as instances_val2017.json, or by its folder; by default train."""
    words = [*re.split("[^a-z]+", path.stem.lower()), path.parent.name.lower()]
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


def by_split(paths: Iterable[Path]) -> dict[str, Path]:
    """The files or folders of a data set by their split. Raises DataError if two have the same."""
    found: dict[str, Path] = {}
    for path in paths:
        split = split_of(path)
        if split in found:
            raise DataError(
                f"{path}: is taken for the split {split}, and so is {found[split]}; name one of the two, or rename one to "
                f"{', '.join(SPLITS)}"
            )
        found[split] = path
    return found


def coco_files(folder: Path) -> dict[str, Path]:
    """The annotation files of a COCO folder by split, if it has any. Raises DataError as `by_split`."""
    return by_split(sorted(folder.glob("annotations/instances_*.json")))
