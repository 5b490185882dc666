"""`strategy: auto`: the plan's first choice as overrides of the recipe, with its reasons."""

from dataclasses import dataclass

from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import Plan, make_plan
from yolo.planner.prediction import Data
from yolo.planner.profile import ClusterProfile
from yolo.recipe import ResolvedRecipe


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy, the reasons for it, and the alternatives."""

    overrides: tuple[str, ...]
    """To put on top of the recipe; they settle `strategy` too."""
    reasons: tuple[str, ...]
    plan: Plan


def choose(resolved: ResolvedRecipe, data: Data | None = None) -> Choice:
    """Choose the first strategy of the plan for the recipe's profile, on the ranks it is resolved for.

    It adds no local steps and no other kind of optimizer to the recipe. The same on every rank: it depends on the recipe,
    the profile and the data only. Raises PlanError if the profile cannot be read.
    """
    plan = make_plan(resolved.loaded, profile_of(resolved), data=data)
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
