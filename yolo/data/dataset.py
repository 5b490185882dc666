"""The one typed form that every data set is read into, and the report of what was wrong with it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from yolo.errors import DataError, readable

EXAMPLES = 5
"""Examples listed of each kind of problem."""


class Problem(StrEnum):
    """What can be wrong with a data set; the first ones cost an image, the next a box, and the last is told."""

    MISSING_IMAGE = "missing image"
    CORRUPT_IMAGE = "corrupt image"
    SIZE_MISMATCH = "image of another size than annotated"
    MALFORMED_IMAGE = "malformed image entry"
    MALFORMED_LABELS = "malformed label file"
    MALFORMED_BOX = "malformed box"
    UNKNOWN_CLASS = "box of an unknown class"
    UNKNOWN_IMAGE = "box of an unknown image"
    CLIPPED_BOX = "box clipped to its image"
    DEGENERATE_BOX = "box without area dropped"
    DUPLICATE_BOX = "duplicate box dropped"
    NO_LABELS = "image without a label file, taken for one without boxes"


BOX_PROBLEMS = (Problem.MALFORMED_BOX, Problem.UNKNOWN_CLASS, Problem.UNKNOWN_IMAGE)
"""What cannot be read as a box; clipped, degenerate and duplicate ones are merely put right."""
IMAGE_PROBLEMS = (
    Problem.MISSING_IMAGE,
    Problem.CORRUPT_IMAGE,
    Problem.SIZE_MISMATCH,
    Problem.MALFORMED_IMAGE,
    Problem.MALFORMED_LABELS,
)


@dataclass(slots=True)
class DataReport:
    """Counts of each kind of problem, and a few examples of each."""

    source: str
    images: int = 0
    """Images that the annotations name, bad ones included."""
    boxes: int = 0
    """Boxes that the annotations name, bad ones included."""
    counts: Counter[Problem] = field(default_factory=Counter)
    examples: dict[Problem, list[str]] = field(default_factory=dict)

    def add(self, problem: Problem, example: str) -> None:
        """Count a problem."""
        self.counts[problem] += 1
        listed = self.examples.setdefault(problem, [])
        if len(listed) < EXAMPLES:
            listed.append(readable(example))

    @property
    def bad_images(self) -> int:
        """Images that cannot be used."""
        return sum(self.counts[problem] for problem in IMAGE_PROBLEMS)

    @property
    def bad_share(self) -> float:
        """Share of the images that cannot be used."""
        return self.bad_images / self.images if self.images else 0.0

    @property
    def bad_boxes(self) -> int:
        """Boxes that cannot be read."""
        return sum(self.counts[problem] for problem in BOX_PROBLEMS)

    @property
    def bad_box_share(self) -> float:
        """Share of the boxes that cannot be read."""
        return self.bad_boxes / self.boxes if self.boxes else 0.0

    def lines(self) -> list[str]:
        """One line a kind of problem; none where all is well."""
        return [
            f"{self.source}: {self.counts[problem]} x {problem}, such as {self.examples[problem][0]}"
            for problem in Problem
            if self.counts[problem]
        ]

    def as_json(self) -> dict[str, object]:
        """For the report's file."""
        return {
            "source": self.source,
            "images": self.images,
            "bad_images": self.bad_images,
            "boxes": self.boxes,
            "bad_boxes": self.bad_boxes,
            "problems": {
                str(problem): {"count": self.counts[problem], "examples": self.examples[problem]}
                for problem in Problem
                if self.counts[problem]
            },
        }


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its boxes."""

    image_id: int
    path: Path
    width: int
    height: int
    boxes: np.ndarray
    """(M, 4) float32: left, top, right, bottom in pixels, within the image."""
    classes: np.ndarray
    """(M,) int64: index into the data set's class names."""
    crowd: np.ndarray
    """(M,) bool: the box holds a crowd; not trained on, and neither hit nor miss in evaluation."""
    areas: np.ndarray
    """(M,) float32 square pixels: the object's own where the format states it (COCO's `area`), else the box's."""


@dataclass(frozen=True, slots=True)
class DetectionDataset:
    """Images, boxes and class names, whatever format they were read from."""

    source: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The format's own number of each class."""
    records: tuple[ImageRecord, ...]
    report: DataReport

    def __len__(self) -> int:
        """Images."""
        return len(self.records)

    def box_shapes(self, size: int) -> np.ndarray:
        """Widths and heights (M, 2) of the boxes, in pixels where the image's long side has `size`; crowds left out."""
        shapes = [
            (record.boxes[:, 2:] - record.boxes[:, :2])[~record.crowd]
            * (size / max(record.width, record.height))
            for record in self.records
        ]
        return np.concatenate([*shapes, np.zeros((0, 2), dtype=np.float32)])

    def without(self, problems: Mapping[int, tuple[Problem, str]]) -> "DetectionDataset":
        """The data set without some images, by their index in `records`; the report counts them."""
        for problem, example in problems.values():
            self.report.add(problem, example)
        kept = tuple(r for index, r in enumerate(self.records) if index not in problems)
        return replace(self, records=kept)

    @property
    def box_count(self) -> int:
        """Boxes of single objects: those that are trained on."""
        return sum(int((~record.crowd).sum()) for record in self.records)

    @property
    def fingerprint(self) -> str:
        """Equal where images, their order and their boxes are, wherever the files lie."""
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        for record in self.records:
            name = (record.image_id, record.path.name, record.width, record.height)
            digest.update(repr(name).encode() + record.boxes.tobytes() + record.classes.tobytes())
        return digest.hexdigest()


def write_report(reports: Iterable[DataReport], path: Path) -> None:
    """Write what was found in each split as one JSON file."""
    path.write_text(json.dumps([report.as_json() for report in reports], indent=1) + "\n")


def refuse_if_bad(report: DataReport, max_bad_share: float, written_to: Path | None = None) -> None:
    """Raise DataError when more than the allowed share of the images or boxes cannot be used, or no image is left."""
    findings = (
        ("images", report.bad_images, report.images, report.bad_share),
        ("boxes", report.bad_boxes, report.boxes, report.bad_box_share),
    )
    for what, bad, total, share in findings:
        if share > max_bad_share or (what == "images" and bad >= total):
            where = f"; all of it is in {written_to}" if written_to else ""
            raise DataError(
                f"{report.source}: {bad} of {total} {what} cannot be used ({share:.1%}, "
                f"data.max_bad_share allows {max_bad_share:.1%}){where}:\n  "
                + "\n  ".join(report.lines())
            )


def clean_boxes(
    boxes: np.ndarray,
    classes: np.ndarray,
    crowd: np.ndarray,
    width: int,
    height: int,
    name: str,
    report: DataReport,
    areas: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (M, 4) in pixels clipped to their image; those without area and exact duplicates dropped, all counted.

    Returns what an `ImageRecord` takes: boxes, classes, crowd, areas; where these are not given, those of the boxes.
    """
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], dtype=boxes.dtype))
    # A coordinate rounded in its file may stand out by less than a pixel's hundredth: no news.
    for index in np.flatnonzero(np.abs(clipped - boxes).max(axis=1, initial=0) > 0.01):
        report.add(
            Problem.CLIPPED_BOX, f"{name}: {boxes[index].round(2).tolist()} in {width}x{height}"
        )
    sides = clipped[:, 2:] - clipped[:, :2]
    has_area = (sides > 0.01).all(axis=1)
    for index in np.flatnonzero(~has_area):
        report.add(Problem.DEGENERATE_BOX, f"{name}: {boxes[index].round(2).tolist()}")
    rows = np.column_stack([clipped, classes, crowd])
    _, first = np.unique(rows, axis=0, return_index=True)
    is_main = np.zeros(len(rows), dtype=bool)
    is_main[first] = True
    for index in np.flatnonzero(has_area & ~is_main):
        report.add(Problem.DUPLICATE_BOX, f"{name}: {boxes[index].round(2).tolist()}")
    kept = has_area & is_main
    return (
        clipped[kept].astype(np.float32),
        classes[kept].astype(np.int64),
        crowd[kept].astype(bool),
        (sides.prod(axis=1) if areas is None else areas)[kept].astype(np.float32),
    )
