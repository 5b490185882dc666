"""`yolo plan --verify`: run a plan's first strategies and the recipe as written, and compare prediction and measurement."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from yolo.calibration.launch_worker import run_worker
from yolo.errors import PlanError
from yolo.planner.cost.strategies import STRATEGY_COSTS
from yolo.planner.plan import Plan, Ranked
from yolo.recipe import LoadedRecipe, prepare_loaded

STEPS = 10


@dataclass(frozen=True, slots=True)
class Verified:
    """One strategy, predicted and measured."""

    label: str
    predicted_step_seconds: float
    measured_step_seconds: float
    predicted_wire_bytes: float
    measured_wire_bytes: float
    """By the meter."""

    @property
    def error(self) -> float:
        """Signed error of the step's seconds."""
        return self.predicted_step_seconds / self.measured_step_seconds - 1

    @property
    def bytes_error(self) -> float:
        """Signed error of the bytes."""
        if not self.measured_wire_bytes:
            return 0.0
        return self.predicted_wire_bytes / self.measured_wire_bytes - 1


def verify(
    loaded: LoadedRecipe, overrides: Sequence[str], plan: Plan, first: int
) -> list[Verified]:
    """Run the first strategies of a plan and the recipe as written, on the machines of the recipe, which was loaded with `overrides`.

    Raises PlanError if the plan is for another number of ranks, LaunchError if the ranks fail.
    """
    resolved = prepare_loaded(loaded).resolved
    if resolved.world_size != plan.profile.ranks:
        raise PlanError(
            f"--verify runs on the recipe's {resolved.world_size} ranks, but the plan is for {plan.profile.ranks}; set "
            "cluster.nodes and cluster.processes_per_node, or --nodes and --gpus-per-node"
        )
    chosen = list(dict.fromkeys([*plan.ranked[:first], plan.as_written]))
    # One word without quotes and blanks: launchers pass those on in different ways.
    strategies = base64.b64encode(json.dumps([*map(_strategy, chosen)]).encode()).decode()
    arguments = ["--recipe", str(loaded.path), "--classes", str(plan.data.classes)]
    arguments += ["--verify", strategies, "--steps", str(STEPS), *overrides]
    measured: list[Any] = json.loads(run_worker(resolved, arguments))
    return [
        Verified(
            each.label,
            # Synthetic images are not waited for.
            each.prediction.step_seconds - each.prediction.data_wait_seconds,
            found["step_seconds"],
            each.prediction.wire_bytes,
            found["metered_bytes_per_rank_per_step"],
        )
        for each, found in zip(chosen, measured, strict=True)
    ]


def _strategy(ranked: Ranked) -> dict[str, Any]:
    """A strategy in its final phase: with compression from the first steps on."""
    overrides = list(ranked.overrides)
    if "optimizer.type=OneBitAdam" in overrides or "optimizer.type=OneBitLamb" in overrides:
        overrides.append("optimizer.freeze_step=1")
    if "communication.reducer=powersgd" in overrides:
        overrides.append("communication.powersgd_start_step=2")
    keys = dict(text.split("=", 1) for text in overrides)
    reducer = STRATEGY_COSTS.get(keys.get("communication.reducer", ""))
    period = reducer.period if reducer else int(keys.get("communication.sync_every", 1))
    return {"name": ranked.label, "overrides": overrides, "period": period, "settle_steps": 6}


def verified_table(found: Sequence[Verified]) -> Table:
    """A table with predicted and measured values, and their signed error."""
    table = Table("strategy", box=None, pad_edge=False, header_style="bold")
    for unit in ("ms", "MB"):
        for heading in (f"predicted {unit}", f"measured {unit}", "error"):
            table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            each.label,
            f"{each.predicted_step_seconds * 1e3:.1f}",
            f"{each.measured_step_seconds * 1e3:.1f}",
            f"{each.error:+.1%}",
            f"{each.predicted_wire_bytes / 1e6:.3f}",
            f"{each.measured_wire_bytes / 1e6:.3f}",
            f"{each.bytes_error:+.1%}",
        )
    return table
