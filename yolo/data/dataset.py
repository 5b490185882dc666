"""The typed form into which every data set is read, and the report of its problems."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from yolo.errors import DataError, readable

EXAMPLES = 5
"""Examples listed per kind of problem."""


class Problem(StrEnum):
    """What can be wrong with a data set: with an image, with a box, and what is only reported."""

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
    UNUSED_LABELS = "label file without an image"
    UNKNOWN_FILE = "file of unknown suffix among the images"
    POLYGON = "polygon taken for its bounding box"
    KEYPOINTS = "label row whose keypoints are ignored"
    DIFFICULT = "difficult object, neither trained on nor counted as a miss"


BOX_PROBLEMS = (Problem.MALFORMED_BOX, Problem.UNKNOWN_CLASS, Problem.UNKNOWN_IMAGE)
"""What cannot be read as a box; clipped, degenerate and duplicate boxes are only corrected."""
IMAGE_PROBLEMS = (
    Problem.MISSING_IMAGE,
    Problem.CORRUPT_IMAGE,
    Problem.SIZE_MISMATCH,
    Problem.MALFORMED_IMAGE,
    Problem.MALFORMED_LABELS,
)


@dataclass(slots=True)
class DataReport:
    """Count and a few examples of each kind of problem."""

    source: str
    images: int = 0
    """Images in the annotations, including bad ones."""
    boxes: int = 0
    """Boxes in the annotations, including bad ones."""
    counts: Counter[Problem] = field(default_factory=Counter)
    examples: dict[Problem, list[str]] = field(default_factory=lambda: defaultdict(list))
    warnings: list[str] = field(default_factory=list)
    """What the data set as a whole shows, each a sentence with its likely cause."""

    def add(self, problem: Problem, example: str) -> None:
        """Count a problem."""
        self.counts[problem] += 1
        if len(self.examples[problem]) < EXAMPLES:
            self.examples[problem].append(readable(example))

    @property
    def bad_images(self) -> int:
        """Number of images that cannot be used."""
        return sum(self.counts[problem] for problem in IMAGE_PROBLEMS)

    @property
    def bad_boxes(self) -> int:
        """Number of boxes that cannot be read."""
        return sum(self.counts[problem] for problem in BOX_PROBLEMS)

    def problems(self) -> list[Problem]:
        """Kinds of problems with a count, in the enum's order."""
        return [problem for problem in Problem if self.counts[problem]]

    def warn(self, sentence: str) -> None:
        """Note what the data set as a whole shows."""
        self.warnings.append(readable(f"{self.source}: {sentence}"))

    def lines(self) -> list[str]:
        """The warnings, and one line per kind of problem."""
        return self.warnings + self.counted_lines()

    def counted_lines(self) -> list[str]:
        """One line per kind of problem."""
        return [
            f"{readable(self.source)}: {self.counts[problem]} x {problem}, such as {self.examples[problem][0]}"
            for problem in self.problems()
        ]

    def as_json(self) -> dict[str, object]:
        """Content of the report file."""
        return {
            "source": self.source,
            "images": self.images,
            "bad_images": self.bad_images,
            "boxes": self.boxes,
            "bad_boxes": self.bad_boxes,
            "warnings": self.warnings,
            "problems": {
                str(problem): {"count": self.counts[problem], "examples": self.examples[problem]}
                for problem in self.problems()
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
    """(M,) float32 square pixels: the object's if the format states it (COCO's `area`), else the box's."""


@dataclass(frozen=True, slots=True)
class DetectionDataset:
    """Images, boxes and class names, independent of the format they were read from."""

    source: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The format's number of each class."""
    records: tuple[ImageRecord, ...]
    report: DataReport

    def __len__(self) -> int:
        return len(self.records)

    def box_shapes(self, size: int) -> np.ndarray:
        """Widths and heights (M, 2) of the boxes, in pixels of an image with its long side at `size`; without crowds."""
        shapes = [
            (r.boxes[:, 2:] - r.boxes[:, :2])[~r.crowd] * (size / max(r.width, r.height))
            for r in self.records
        ]
        return np.concatenate([*shapes, np.zeros((0, 2), dtype=np.float32)])

    def without(self, problems: Mapping[int, tuple[Problem, str]]) -> "DetectionDataset":
        """The data set without some images, given by index in `records`; they are added to the report."""
        for problem, example in problems.values():
            self.report.add(problem, example)
        kept = tuple(r for index, r in enumerate(self.records) if index not in problems)
        return replace(self, records=kept)

    @property
    def box_count(self) -> int:
        """Boxes of single objects, which are trained on."""
        return sum(int((~record.crowd).sum()) for record in self.records)

    @property
    def crowd_count(self) -> int:
        """Boxes of crowds, which are not trained on."""
        return sum(int(record.crowd.sum()) for record in self.records)

    @property
    def fingerprint(self) -> str:
        """Equal if images, their order and their boxes are equal, in whichever folder the files are."""
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        for record in self.records:
            name = (record.image_id, record.path.name, record.width, record.height)
            digest.update(repr(name).encode() + record.boxes.tobytes() + record.classes.tobytes())
        return digest.hexdigest()


def write_report(reports: Iterable[DataReport], path: Path) -> None:
    """Write the reports of all splits as one JSON file."""
    path.write_text(json.dumps([report.as_json() for report in reports], indent=1) + "\n")


def refuse_if_bad(report: DataReport, max_bad_share: float, written_to: Path | None = None) -> None:
    """Raise DataError if more than the allowed share of images or boxes cannot be used, or if no image can."""
    for what, bad, total in (
        ("images", report.bad_images, report.images),
        ("boxes", report.bad_boxes, report.boxes),
    ):
        share = bad / max(total, 1)
        if share > max_bad_share or (what == "images" and bad >= total):
            where = f"; all problems are in {written_to}" if written_to else ""
            raise DataError(
                f"{report.source}: {bad} of {total} {what} cannot be used ({share:.1%}, "
                f"data.max_bad_share allows {max_bad_share:.1%}){where}:\n  "
                + "\n  ".join(report.lines())
            )


def refuse_if_classes_differ(class_names: Sequence[str], train: str, val: DetectionDataset) -> None:
    """Raise DataError if the classes of the validation split are not the training split's; `train` is its source."""
    if tuple(class_names) != val.class_names:
        raise DataError(
            f"{val.source}: its classes {list(val.class_names)} are not those of {train}: {list(class_names)}"
        )


def refuse_without_boxes(source: str, boxes: int, report: DataReport) -> None:
    """Raise DataError if the training split has no box."""
    if boxes == 0:
        raise DataError("\n  ".join([f"{source}: no box to learn from", *report.lines()]))


def clean_boxes(
    table: np.ndarray, width: int, height: int, name: str, report: DataReport
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Clip boxes to their image; drop those without area and exact duplicates; count all of these.

    `table` (M, 6) or (M, 7): xyxy in pixels, class, crowd, and the object's area, by default the clipped box's. Returns
    the `boxes`, `classes`, `crowd` and `areas` of an `ImageRecord`.
    """
    boxes = table[:, :4]
    clipped = np.clip(boxes, 0, np.array([width, height, width, height]))
    sides = clipped[:, 2:] - clipped[:, :2]
    has_area = (sides > 0.01).all(axis=1)
    rows = np.column_stack([clipped, table[:, 4:6]])
    is_repeated = np.ones(len(rows), dtype=bool)
    is_repeated[np.unique(rows, axis=0, return_index=True)[1]] = False
    # Rounding in the file may move a coordinate out of the image by less than a hundredth of a pixel: not reported.
    is_clipped = np.abs(clipped - boxes).max(axis=1, initial=0) > 0.01
    for problem, is_found, suffix in (
        (Problem.CLIPPED_BOX, is_clipped, f" in {width}x{height}"),
        (Problem.DEGENERATE_BOX, ~has_area, ""),
        (Problem.DUPLICATE_BOX, has_area & is_repeated, ""),
    ):
        for box in boxes[is_found]:
            report.add(problem, f"{name}: {box.round(2).tolist()}{suffix}")
    areas = table[:, 6] if table.shape[1] > 6 else sides.prod(axis=1)
    kept = has_area & ~is_repeated
    return (
        clipped[kept].astype(np.float32),
        table[kept, 4].astype(np.int64),
        table[kept, 5].astype(bool),
        areas[kept].astype(np.float32),
    )
