"""`python -m yolo plan`: a cluster from its name or file, the plan, and where it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from yolo.errors import PlanError
from yolo.planner.candidates import GradientFidelity
from yolo.planner.dataset_size import data_of
from yolo.planner.hardware_catalog import cluster
from yolo.planner.plan import Plan, make_plan
from yolo.planner.prediction import Data
from yolo.planner.profile import ClusterProfile
from yolo.planner.table import heading, memory_table, plan_table
from yolo.recipe import prepare

WIDTH = 240
"""Of a table that goes into a file."""


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


def profile_of(request: PlanRequest) -> ClusterProfile:
    """The cluster that a plan is asked for.

    Raises PlanError where nothing names one.
    """
    name = request.cluster
    if name is None:
        section = prepare(request.recipe, request.overrides).resolved.recipe.cluster
        name = section.profile
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
    """The plan for a request; its numbers of images and classes go before the data's own."""
    return make_plan(
        request.recipe, request.overrides, profile, request.allowed, _data(request, profile)
    )


def _data(request: PlanRequest, profile: ClusterProfile) -> Data:
    resolved = prepare(
        request.recipe, request.overrides, profile.ranks, profile.gpus_per_node
    ).resolved
    return data_of(resolved.recipe, request.images, request.classes)


def print_plan(plan: Plan, most: int) -> None:
    """The table, the memory of the first line and the reasons."""
    console = Console(width=None if Console().is_terminal else WIDTH)
    console.print(heading(plan), highlight=False)
    console.print()
    console.print(plan_table(plan, most))
    console.print(f"\nA rank's memory under {plan.first.label}:", highlight=False)
    console.print(memory_table(plan.first.prediction))
    console.print("\nWhy:", highlight=False)
    for reason in plan.reasons:
        console.print(f"- {reason}", highlight=False, soft_wrap=True)


def print_json(plan: Plan) -> None:
    """The ranked list and the reasons."""
    print(plan.as_json())


def print_scale(request: PlanRequest, profile: ClusterProfile, picture: Path) -> None:
    """How far the cluster scales, as lines and as a figure."""
    from yolo.planner.scaling import reaches, scale_lines, write_figure

    found = reaches(request.recipe, request.overrides, profile, _data(request, profile))
    write_figure(found, picture)
    print("\n".join(scale_lines(found)))
    print(f"wrote {picture}")
