"""`python -m yolo plan`: the cluster that it is for, and how a plan is printed."""

from rich.console import Console

from yolo.errors import PlanError
from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import Plan
from yolo.planner.profile import ClusterProfile
from yolo.planner.table import heading, memory_table, plan_table
from yolo.recipe import LoadedRecipe, prepare_loaded

WIDTH = 240
"""Columns of a table that is written to a file."""


def requested_profile(
    loaded: LoadedRecipe,
    name: str | None,
    nodes: int | None,
    gpus_per_node: int | None,
    bandwidth_gbps: float | None,
) -> ClusterProfile:
    """The profile with a name such as 4x8xa100-100gbe or in a file (None: the recipe's cluster.profile), and changes to it.

    Raises PlanError if there is no name.
    """
    name = name or prepare_loaded(loaded).resolved.recipe.cluster.profile
    if name is None:
        raise PlanError(
            "for which cluster? Give --cluster NODESxGPUSxGPU-NETWORK such as 4x8xa100-100gbe, or --measured FILE from "
            "`python -m yolo calibrate`, or set cluster.profile in the recipe"
        )
    profile = cluster(name)
    if nodes or gpus_per_node:
        profile = profile.with_nodes(nodes or profile.nodes, gpus_per_node)
    return profile.with_bandwidth(bandwidth_gbps) if bandwidth_gbps else profile


def print_plan(plan: Plan, most: int) -> None:
    """Print the table, the memory of the first strategy and the reasons."""
    console = Console(width=None if Console().is_terminal else WIDTH)
    console.print(f"{heading(plan)}\n", highlight=False)
    console.print(plan_table(plan, most))
    console.print(f"\nMemory per rank with {plan.first.label}:", highlight=False)
    console.print(memory_table(plan.first.prediction))
    console.print("\nWhy:", highlight=False)
    for reason in plan.reasons:
        console.print(f"- {reason}", highlight=False, soft_wrap=True)
