"""The AP that each strategy kept, as `python -m yolo.bench.accuracy` measured it.

A plan neither puts first nor takes a strategy that lost more than `LOSS_BOUND`, or that changes the gradients and was not
measured.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from yolo.errors import PlanError
from yolo.planner.cost.strategies import STRATEGY_COSTS, strategy_of
from yolo.recipe.schema.recipe import Recipe

SHIPPED = Path(__file__).with_name("measured_accuracy.json")
"""The measurement that plans refer to; `--ship` of the benchmark writes it."""
REFERENCE = "reference"
"""Name of the runs without a strategy of their own."""
LOSS_BOUND = 0.01
"""AP that a strategy may lose."""


@dataclass(frozen=True, slots=True)
class KeptAccuracy:
    """What is known about the AP under a strategy."""

    change: float | None
    """AP minus the reference's, measured; None: not measured."""
    has_same_gradients: bool
    """Whether its gradients are the same except for the order of sums."""

    @property
    def is_kept(self) -> bool:
        """Whether its gradients are the same, or it was measured within the bound."""
        is_within = self.change is not None and self.change >= -LOSS_BOUND
        return self.has_same_gradients or is_within

    def __str__(self) -> str:
        if self.change is not None:
            return f"{self.change:+.3f}"
        return "same gradients" if self.has_same_gradients else "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracySetup:
    """What all runs of a measurement share."""

    base: str
    """The recipe that every strategy was put on top of, and the reference as it is."""
    overrides: tuple[str, ...]
    """On top of all runs."""
    images: int
    """To train on."""
    classes: int
    variant: str
    image_size: int
    """In pixels."""
    epochs: int
    ranks: int
    global_batch: int
    optimizer: str
    """The reference's."""
    processor: str
    torch_version: str
    deepspeed_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRun:
    """One strategy with one seed."""

    strategy: str
    """Its recipe's name, or `reference`."""
    overrides: tuple[str, ...]
    """What its recipe states, put on top of the base."""
    key: str
    """Of its `StrategyCost`."""
    settings: Mapping[str, Any]
    """The strategy's `learning_settings`, by key."""
    digest: str
    """Of its recipe: a run is repeated if that has changed."""
    seed: int
    precision: str
    """Computed in."""
    steps: int
    ap: float
    """From the last evaluation."""
    ap50: float
    wire_bytes_per_step_per_rank: float
    """Sent in a training step, mean of the run."""
    wire_bytes_per_rank: float
    """Sent in all training steps."""
    wall_seconds: float


@dataclass(frozen=True)
class MeasuredAccuracy:
    """A measurement: the reference and every strategy, each with several seeds."""

    setup: AccuracySetup
    runs: tuple[AccuracyRun, ...]
    command: str
    date: str
    """Of its last run, UTC."""
    note: str = ""
    """What a reader must know about the figures."""

    @classmethod
    def read(cls, path: Path) -> "MeasuredAccuracy":
        """A measurement from its JSON file. Raises PlanError if it is not one, OSError if it cannot be read."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            setup, runs = content.pop("setup"), content.pop("runs")
            return cls(
                AccuracySetup(**setup | {"overrides": tuple(setup["overrides"])}),
                tuple(AccuracyRun(**run | {"overrides": tuple(run["overrides"])}) for run in runs),
                **content,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"{path}: is no measurement of accuracy: {error!r}") from error

    @cached_property
    def strategies(self) -> dict[str, tuple[AccuracyRun, ...]]:
        """The runs of each strategy by its name, in the order of their first runs."""
        names = dict.fromkeys(run.strategy for run in self.runs)
        return {name: tuple(run for run in self.runs if run.strategy == name) for name in names}

    @property
    def described(self) -> str:
        """The set-up in one line."""
        setup, first = self.setup, self.runs[0]
        seeds = sorted({run.seed for run in self.runs})
        precisions = sorted({run.precision for run in self.runs})
        return (
            f"{' '.join((setup.base, *setup.overrides))}: yolov5{setup.variant} at {setup.image_size} pixels, "
            f"{setup.images:,} images, {setup.classes} classes, {setup.epochs} epochs, {first.steps:,} steps, "
            f"{setup.ranks} ranks, global batch {setup.global_batch}, {setup.optimizer}, {' and '.join(precisions)}, "
            f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}; {setup.processor}, "
            f"torch {setup.torch_version}, DeepSpeed {setup.deepspeed_version}, {self.date[:10]}"
            + (f"; {self.note}" if self.note else "")
        )

    def kept(self, recipe: Recipe) -> KeptAccuracy:
        """What is known about a resolved recipe's strategy: as measured with the same settings, whatever else differs.

        Strategies that average gradients in the same number format learn the same, so one's measurement holds for another.
        """
        cost = strategy_of(recipe)
        settings = cost.learning_settings_of(recipe)
        is_same = cost.averages_gradients and settings == {"communication.data_type": "fp32"}
        measured = [
            (run.key, run.strategy)
            for run in self.runs
            if run.strategy != REFERENCE and run.settings == settings
        ]
        names = [name for key, name in measured if key == cost.key]
        if not names and cost.averages_gradients and not is_same:
            names = [name for key, name in measured if _averages_gradients(key)]
        return KeptAccuracy(self.change(names[0]) if names else None, is_same)

    def change(self, strategy: str) -> float:
        """Its AP minus the reference's, mean over the seeds that both were trained with; below 0 it loses AP."""
        reference = {run.seed: run.ap for run in self.strategies[REFERENCE]}
        return statistics.fmean(
            run.ap - reference[run.seed]
            for run in self.strategies[strategy]
            if run.seed in reference
        )


def _averages_gradients(key: str) -> bool:
    cost = STRATEGY_COSTS.get(key)  # None: a strategy that no longer exists
    return cost is not None and cost.averages_gradients
