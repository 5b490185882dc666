"""The course of a run, read back from its log."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class LossPoint:
    """A logged training record; NaN where a figure was not finite."""

    epoch: float
    box: float
    obj: float
    cls: float


@dataclass(frozen=True, slots=True)
class PrecisionPoint:
    """A logged evaluation; NaN where it could not be measured."""

    epoch: float
    ap: float
    ap50: float


@dataclass(frozen=True, slots=True)
class History:
    """Losses and average precision over the epochs, each step once."""

    losses: tuple[LossPoint, ...]
    precisions: tuple[PrecisionPoint, ...]


def read_history(path: Path) -> History:
    """The course of a run from its `metrics.jsonl`; empty where there is none.

    A resumed run repeats the steps after its checkpoint: what it repeats takes the place of what was there. A torn line
    is passed over.
    """
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        _drop_repeated(records, record)
        records.append(record)
    return History(
        tuple(
            LossPoint(
                record["epoch"],
                _figure(record, "train/loss_box"),
                _figure(record, "train/loss_obj"),
                _figure(record, "train/loss_cls"),
            )
            for record in records
            if record["kind"] == "step"
        ),
        tuple(
            PrecisionPoint(
                record["epoch"],
                _figure(record, "validation/AP"),
                _figure(record, "validation/AP50"),
            )
            for record in records
            if record["kind"] == "evaluation"
        ),
    )


def _drop_repeated(records: list[dict[str, Any]], new: dict[str, Any]) -> None:
    while records and _place(records[-1]) >= _place(new):
        records.pop()


def _place(record: dict[str, Any]) -> tuple[int, bool]:
    """A step's evaluation comes after the step."""
    return record["step"], record["kind"] == "evaluation"


def _figure(record: dict[str, Any], name: str) -> float:
    value = record.get(name)
    return math.nan if value is None else float(value)
