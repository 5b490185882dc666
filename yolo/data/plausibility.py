"""Statistics of a data set that show a wrong result before it is trained: each is one sentence with its likely cause.

What would surely be wrong is refused; the rest are warnings.
"""

from collections.abc import Sequence
from itertools import compress

import numpy as np

from yolo.data.dataset import DataReport, DetectionDataset, Problem
from yolo.data.image.decode import unused_bits
from yolo.errors import DataError

MANY = 0.1
"""Share of the boxes from which on it is no accident that they are clipped, tiny, or reach out of their image."""
OVERSHOOT = 0.1
"""Share of the image's side by which a box reaches out if its corners were taken for width and height."""
SURE = 10
"""Boxes from which on it is sure that all are corners: fewer may be so by chance."""
SMALLEST_SIDE = 10
"""Pixels of an image in which boxes of one pixel might be meant."""
TINY = 2.0
"""Pixels at the network's input: its finest cells have 8, and a smaller box is hardly learned."""
NAMED = 5
"""Classes or images named in a sentence."""


def refuse_misread_boxes(
    boxes: Sequence[np.ndarray], sizes: np.ndarray, report: DataReport
) -> None:
    """Raise DataError if `bbox` surely is not [x, y, width, height] in pixels.

    boxes: per image (M, 4) xyxy in pixels, made of xywh. sizes: (N, 2) width and height. With few boxes it is a warning.
    """
    sides = np.repeat(sizes, [len(rows) for rows in boxes], axis=0)  # (sum of M, 2)
    table = np.concatenate([*boxes, np.zeros((0, 4))])
    if not len(table):
        return
    start, stated = table[:, :2], table[:, 2:] - table[:, :2]
    are_shares = max(np.abs(start).max(), np.abs(stated).max()) <= 1 and stated.max() > 0
    if are_shares and sides.min() > SMALLEST_SIDE:
        raise DataError(
            f"{report.source}: all {len(table)} boxes lie between 0 and 1, as shares of the image; COCO's `bbox` is in "
            "pixels: multiply x and width by the image's width, y and height by its height"
        )
    reaches_out = (table[:, 2:] > sides * (1 + OVERSHOOT)).any(axis=1).mean()
    # With a pixel for rounding: the second corner is right of and below the first, and within the image.
    are_corners = bool(((stated > start) & (stated <= sides + 1)).all())
    if reaches_out > MANY and are_corners:
        sentence = (
            f"{reaches_out:.0%} of the boxes reach out of their image, and none would if `bbox` were [left, top, right, "
            "bottom]; COCO's is [x, y, width, height]: subtract x and y from the last two"
        )
        if len(table) >= SURE:
            raise DataError(f"{report.source}: {sentence}")
        report.warn(sentence)


def warn_of_splits(train: DetectionDataset | None, val: DetectionDataset, image_size: int) -> None:
    """Add warnings about the splits of a run to their reports. `train` is None if it is streamed."""
    warn_of_split(val, image_size)
    if train is not None:
        warn_of_split(train, image_size)
        _warn_of_classes(train)
        _warn_of_shared_images(train, val)


def warn_of_split(dataset: DetectionDataset, image_size: int) -> None:
    """Add warnings about a split's boxes and pixels to its report. `image_size`: the network's, pixels."""
    report, shapes = dataset.report, dataset.box_shapes(image_size)
    if sentence := unused_bits([record.path for record in dataset.records]):
        report.warn(sentence)
    clipped = report.counts[Problem.CLIPPED_BOX] / max(report.boxes, 1)
    if clipped > MANY:
        report.warn(
            f"{clipped:.0%} of the boxes were clipped to their image; were they drawn in an image of another size?"
        )
    tiny = float((shapes.min(axis=1) < TINY).mean()) if len(shapes) else 0.0
    if tiny > MANY:
        report.warn(
            f"{tiny:.0%} of the boxes are smaller than {TINY:g} pixels at model.image_size {image_size}; they are hardly "
            "learned: raise it, or cut the images into tiles"
        )


def _warn_of_classes(train: DetectionDataset) -> None:
    """Add a warning to the report if the training split lacks boxes of some classes."""
    counts = np.zeros(len(train.class_names), dtype=np.int64)
    for record in train.records:
        np.add.at(counts, record.classes[~record.crowd], 1)
    absent = list(compress(train.class_names, counts == 0))
    if absent and len(absent) < len(counts):
        is_one = len(absent) == len(counts) - 1 and len(counts) > 2
        only = f"all boxes are of class {train.class_names[counts.argmax()]!r}; " if is_one else ""
        names = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
        train.report.warn(
            f"{only}{len(absent)} of {len(counts)} classes have no training box: {names}; are the labels' class numbers "
            "those of the names?"
        )


def _warn_of_shared_images(train: DetectionDataset, val: DetectionDataset) -> None:
    """Add a warning to the validation split's report if images of it are trained on."""
    trained = {record.path for record in train.records}
    shared = [record.path for record in val.records if record.path in trained]
    if shared:
        val.report.warn(
            f"{len(shared)} of {len(val)} validation images are training images too, such as {shared[0]}: its AP says "
            "nothing about other images"
        )
