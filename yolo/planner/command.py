"""`python -m yolo plan`: find the cluster by its name or file, make the plan, and print it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from yolo.errors import PlanError
from yolo.planner.candidates import GradientFidelity
from yolo.planner.dataset_size import data_of
from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import Plan, make_plan, resolve_for
from yolo.planner.prediction import Data
from yolo.planner.profile import ClusterProfile
from yolo.planner.table import heading, memory_table, plan_table
from yolo.recipe import prepare

WIDTH = 240
"""Columns of a table that is written to a file."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the command line asks for."""

    recipe: Path
    overrides: Sequence[str]
    cluster: str | None
    """A name such as 4x8xa100-100gbe or a profile's file; None for the recipe's own cluster.profile."""
    nodes: int | None
    gpus_per_node: int | None
    bandwidth_gbps: float | None
    allowed: GradientFidelity
    images: int | None
    classes: int | None

    def data(self, profile: ClusterProfile) -> Data:
        """The requested numbers of images and classes, else the data set's own."""
        recipe = resolve_for(profile, self.recipe, self.overrides).recipe
        return data_of(recipe, self.images, self.classes)


def profile_of(request: PlanRequest) -> ClusterProfile:
    """The profile of the requested cluster. Raises PlanError if neither the request nor the recipe names one."""
    name = request.cluster
    if name is None:
        name = prepare(request.recipe, request.overrides).resolved.recipe.cluster.profile
    if name is None:
        raise PlanError(
            "for which cluster? Give --cluster NODESxGPUSxGPU-NETWORK such as 4x8xa100-100gbe, or --measured FILE from "
            "`python -m yolo calibrate`, or set cluster.profile in the recipe"
        )
    profile = cluster(name)
    if request.nodes or request.gpus_per_node:
        profile = profile.with_nodes(request.nodes or profile.nodes, request.gpus_per_node)
    if request.bandwidth_gbps:
        profile = profile.with_bandwidth(request.bandwidth_gbps)
    return profile


def plan_for(request: PlanRequest, profile: ClusterProfile) -> Plan:
    """The plan for a request."""
    data = request.data(profile)
    return make_plan(request.recipe, request.overrides, profile, request.allowed, data)


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


def print_json(plan: Plan) -> None:
    """Print the ranked list and the reasons."""
    print(plan.as_json())


def print_scale(request: PlanRequest, profile: ClusterProfile, path: Path) -> None:
    """Print how far the cluster scales, and write it as a chart."""
    from yolo.planner.scaling import scale_lines, scaling_points, write_figure

    found = scaling_points(request.recipe, request.overrides, profile, request.data(profile))
    write_figure(found, path)
    print("\n".join(scale_lines(found)))
    print(f"wrote {path}")
