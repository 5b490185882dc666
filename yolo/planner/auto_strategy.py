"""`strategy: auto`: the plan's first choice as overrides of the recipe, with its reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.planner.candidates import GradientFidelity
from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import Plan, make_plan
from yolo.planner.prediction import Data
from yolo.planner.profile import ClusterProfile
from yolo.recipe import ResolvedRecipe

ALLOWED = GradientFidelity.COMPRESSED
"""Nobody's ranks begin to step alone, and nobody's optimizer changes its kind, unless the recipe says so."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy, why, and what else there was."""

    overrides: tuple[str, ...]
    """To be added to the recipe's own; they settle `strategy` too."""
    reasons: tuple[str, ...]
    plan: Plan


def choose(
    path: Path, overrides: Sequence[str], resolved: ResolvedRecipe, data: Data | None = None
) -> Choice:
    """The first strategy of the plan for a recipe's own profile, on as many ranks as it is resolved for.

    The same on every rank: nothing but the recipe, the profile and the data decide. Raises PlanError for a profile that
    cannot be read.
    """
    plan = make_plan(path, overrides, profile_of(resolved), ALLOWED, data)
    first = plan.first
    settings = " ".join(first.overrides) or "as written"
    return Choice(
        overrides=(*first.overrides, "strategy=as_written"),
        reasons=(f"strategy auto: {first.label} ({settings})", *plan.reasons),
        plan=plan,
    )


def profile_of(resolved: ResolvedRecipe) -> ClusterProfile:
    """The profile that a recipe names, with the nodes and ranks of the run."""
    section = resolved.recipe.cluster
    assert section.profile is not None
    each = section.processes_per_node
    nodes = max(1, resolved.world_size // each)
    return cluster(section.profile).with_nodes(nodes, each)
