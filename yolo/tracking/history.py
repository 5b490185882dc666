"""The losses and average precision of a run, read from its metrics.jsonl."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class LossPoint:
    """A logged training record; NaN for a figure that was not finite."""

    epoch: float
    box: float
    obj: float
    cls: float


@dataclass(frozen=True, slots=True)
class PrecisionPoint:
    """A logged evaluation; NaN for a figure that could not be measured."""

    epoch: float
    ap: float
    ap50: float


@dataclass(frozen=True, slots=True)
class History:
    """Losses and average precision over the epochs, each step once."""

    losses: tuple[LossPoint, ...]
    precisions: tuple[PrecisionPoint, ...]


def read_history(path: Path) -> History:
    """Read a run's `metrics.jsonl`; empty if there is none.

    A resumed run repeats the steps after its checkpoint; the repeated records replace the earlier ones. A torn line is
    skipped.
    """
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        while records and _position(records[-1]) >= _position(record):
            records.pop()
        records.append(record)
    steps = [record for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    losses = ("train/loss_box", "train/loss_obj", "train/loss_cls")
    return History(
        tuple(LossPoint(*_figures(record, *losses)) for record in steps),
        tuple(
            PrecisionPoint(*_figures(record, "validation/AP", "validation/AP50"))
            for record in evaluations
        ),
    )


def _position(record: dict[str, Any]) -> tuple[int, bool]:
    """An evaluation comes after the step of the same number."""
    return record["step"], record["kind"] == "evaluation"


def _figures(record: dict[str, Any], *names: str) -> tuple[float, ...]:
    values = (record.get(name) for name in names)
    return record["epoch"], *(math.nan if value is None else float(value) for value in values)
