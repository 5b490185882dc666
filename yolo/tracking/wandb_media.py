"""Evaluations and sample images as Weights & Biases tables, charts and images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import wandb
from wandb.plot.custom_chart import CustomChart

from yolo.evaluation.metrics import Metrics
from yolo.tracking.records import (
    CLASS_COLUMNS,
    PredictedAndMeasured,
    SampleBox,
    SamplePicture,
)

MAX_ROWS = 10_000
"""The limit of rows that Weights & Biases draws from a table."""


def class_table(result: Metrics) -> wandb.Table:
    """One row per class."""
    rows = [
        [row.name, row.images, row.boxes, row.ap, row.ap50, row.precision, row.recall]
        for row in result.per_class
    ]
    return wandb.Table(columns=[*CLASS_COLUMNS], data=rows)


def comparison_table(found: Sequence[PredictedAndMeasured]) -> wandb.Table:
    """One row per predicted figure."""
    columns: list[str | int] = ["what", "unit", "predicted", "measured", "error"]
    rows = [[each.what, each.unit, each.predicted, each.measured, each.error] for each in found]
    return wandb.Table(columns=columns, data=rows)


def precision_recall_chart(result: Metrics) -> CustomChart:
    """P-R curves: the mean, then the first classes up to the service's limit of rows."""
    curves = [result.mean_curve, *result.curves] if result.mean_curve else []
    drawn = MAX_ROWS // len(curves[0].precision) if curves else 0
    rows = [
        [curve.name, round(float(recall), 3), round(float(precision), 4)]
        for curve in curves[:drawn]
        for recall, precision in zip(
            np.linspace(0, 1, len(curve.precision)), curve.precision, strict=True
        )
    ]
    table = wandb.Table(columns=["class", "recall", "precision"], data=rows)
    return wandb.plot_table(
        "wandb/area-under-curve/v0",
        table,
        {"x": "recall", "y": "precision", "class": "class"},
        {"title": "Precision over recall at IoU 0.5"},
    )


def confusion_chart(result: Metrics) -> CustomChart:
    """The confusion matrix; beyond the service's limit of rows, the cells with the largest counts."""
    labels, counts = result.confusion.labels, result.confusion.counts
    cells: list[list[Any]] = [
        [actual, predicted, int(counts[row, column])]
        for row, actual in enumerate(labels)
        for column, predicted in enumerate(labels)
    ]
    if len(cells) > MAX_ROWS:
        cells = sorted(cells, key=lambda cell: -cell[2])[:MAX_ROWS]
    columns = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=[*columns], data=cells),
        {column: column for column in columns},
        {"title": "Confusion matrix at confidence 0.25"},
    )


def sample_image(sample: SamplePicture, class_names: Sequence[str]) -> wandb.Image:
    """An image with two layers of boxes, `true` and `predicted`, which can be shown and hidden separately."""
    labels = dict(enumerate(class_names))
    layers = {"true": sample.true, "predicted": sample.predicted}
    return wandb.Image(
        sample.image,
        caption=sample.name,
        boxes={
            layer: {"box_data": [_box(box, labels) for box in boxes], "class_labels": labels}
            for layer, boxes in layers.items()
        },
    )


def _box(box: SampleBox, labels: dict[int, str]) -> dict[str, object]:
    name = labels[box.category]
    entry: dict[str, object] = {
        "position": {
            **{"minX": float(box.left), "maxX": float(box.right)},
            **{"minY": float(box.top), "maxY": float(box.bottom)},
        },
        "domain": "pixel",
        "class_id": int(box.category),
        "box_caption": name if box.score is None else f"{name} {box.score:.2f}",
    }
    if box.score is not None:
        entry["scores"] = {"score": float(box.score)}
    return entry
