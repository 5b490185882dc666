"""The commands of the planner: `plan` and `calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolo.cli.arguments import add_recipe, command, count, one_recipe

ALLOWED = ("same", "rounded", "compressed", "local", "otherwise")


def add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`yolo plan`."""
    text = "predict what every strategy would cost on a cluster, and rank them. Starts nothing (but with --verify) and needs no GPU."
    parser = command(commands, "plan", _plan, text)
    add_recipe(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--cluster",
        metavar="NAME",
        help="NODESxGPUSxGPU-NETWORK such as 4x8xa100-100gbe, or a profile (*.yaml); default: the recipe's cluster.profile",
    )
    where.add_argument("--measured", metavar="FILE", help="a profile that `yolo calibrate` wrote")
    parser.add_argument("--nodes", type=count, metavar="N", help="another number of nodes")
    parser.add_argument("--gpus-per-node", type=count, metavar="N", help="another number of GPUs")
    parser.add_argument(
        "--bandwidth", type=float, metavar="GBPS", help="another rate of a node's link, in Gbit/s"
    )
    parser.add_argument(
        "--allow",
        choices=ALLOWED,
        default="compressed",
        help="how far a strategy may be from averaging whole gradients in each step (default compressed)",
    )
    parser.add_argument(
        "--images", type=count, help="of the data set (default: as its annotations say, or COCO's)"
    )
    parser.add_argument("--classes", type=count, help="of the data set")
    parser.add_argument("--top", type=count, default=12, metavar="N", help="lines (default 12)")
    parser.add_argument("--json", action="store_true", help="print the ranked list as JSON")
    parser.add_argument(
        "--scale",
        type=Path,
        metavar="PNG",
        help="also from 1 to 1,024 nodes: lines, and a figure there",
    )
    parser.add_argument(
        "--verify",
        type=count,
        nargs="?",
        const=3,
        metavar="K",
        help="run the first K (default 3) and the recipe as it is, and print what was predicted and what is measured",
    )


def _plan(options: argparse.Namespace) -> None:
    from rich.console import Console

    from yolo.planner.candidates import GradientFidelity
    from yolo.planner.command import (
        PlanRequest,
        plan_for,
        print_json,
        print_plan,
        print_scale,
        profile_of,
    )

    recipe, overrides = one_recipe(options)
    request = PlanRequest(
        recipe=recipe,
        overrides=overrides,
        cluster=options.measured or options.cluster,
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        bandwidth_gbps=options.bandwidth,
        allowed=GradientFidelity[options.allow.upper()],
        images=options.images,
        classes=options.classes,
    )
    profile = profile_of(request)
    plan = plan_for(request, profile)
    if options.json:
        print_json(plan)
    else:
        print_plan(plan, options.top)
    if options.scale:
        print_scale(request, profile, options.scale)
    if options.verify:
        from yolo.calibration.verify import verified_table, verify

        Console().print(verified_table(verify(recipe, overrides, plan, options.verify)))


def add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`yolo calibrate`."""
    text = (
        "measure a cluster for `yolo plan`: collectives, computing, packing, jitter. Takes about a minute on the machines that "
        "the recipe names, and writes a profile; a profile that is there already gets one more measurement."
    )
    parser = command(commands, "calibrate", _calibrate, text)
    add_recipe(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("profiles/cluster.yaml"),
        help="default profiles/cluster.yaml",
    )
    parser.add_argument(
        "--bandwidth",
        type=float,
        metavar="GBPS",
        help="of a node's link, in Gbit/s (default: as all-reduce finds it)",
    )
    parser.add_argument(
        "--classes", type=count, help="of the data set (default: as its annotations say, or 80)"
    )


def _calibrate(options: argparse.Namespace) -> None:
    from yolo.calibration.calibrate import calibrate

    recipe, overrides = one_recipe(options)
    profile = calibrate(recipe, overrides, options.out, options.bandwidth, options.classes)
    print(
        f"wrote {options.out}: {profile.ranks} ranks, {len(profile.measured)} measurements; "
        f"`python -m yolo plan {recipe} --measured {options.out}` plans with it"
    )
