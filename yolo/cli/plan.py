"""The commands of the planner: `plan` and `calibrate`."""

import argparse
from pathlib import Path

from yolo.cli.arguments import Commands, add_command, add_recipe, count, one_recipe

ALLOWED = ("same", "rounded", "compressed", "local", "other-optimizer")


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    plan = add_command(commands, _plan)
    add_recipe(plan)
    cluster = plan.add_mutually_exclusive_group()
    cluster.add_argument(
        "--cluster",
        metavar="NAME",
        help="NODESxGPUSxGPU-NETWORK such as 4x8xa100-100gbe, or a profile (*.yaml); default: the recipe's cluster.profile",
    )
    cluster.add_argument("--measured", metavar="FILE", help="a profile that `yolo calibrate` wrote")
    plan.add_argument("--nodes", type=count, metavar="N", help="another number of nodes")
    plan.add_argument("--gpus-per-node", type=count, metavar="N", help="another number of GPUs")
    plan.add_argument(
        "--bandwidth", type=float, metavar="GBPS", help="another rate of a node's link, in Gbit/s"
    )
    plan.add_argument(
        "--allow",
        type=lambda word: "other-optimizer" if word == "otherwise" else word,  # its earlier name
        choices=ALLOWED,
        default="compressed",
        help="how far a strategy may differ from averaging exact gradients in each step (default compressed)",
    )
    plan.add_argument(
        "--images", type=count, help="in the data set (default: from its annotations, or COCO's)"
    )
    plan.add_argument("--classes", type=count, help="in the data set")
    plan.add_argument("--top", type=count, default=12, metavar="N", help="lines (default 12)")
    plan.add_argument("--json", action="store_true", help="print the ranked list as JSON")
    plan.add_argument(
        "--scale",
        type=Path,
        metavar="PNG",
        help="also predict 1 to 1,024 nodes: print lines, and write a figure there",
    )
    plan.add_argument(
        "--timeline",
        type=Path,
        metavar="PNG",
        help="draw the milliseconds of a step, computing and network: the recipe, the plan's choice and some others",
    )
    plan.add_argument(
        "--verify",
        type=count,
        nargs="?",
        const=3,
        metavar="K",
        help="run the first K (default 3) and the unchanged recipe, and print predicted and measured figures",
    )

    calibrate = add_command(commands, _calibrate)
    add_recipe(calibrate)
    calibrate.add_argument(
        "--out",
        type=Path,
        default=Path("profiles/cluster.yaml"),
        help="the profile to write (default profiles/cluster.yaml)",
    )
    calibrate.add_argument(
        "--bandwidth",
        type=float,
        metavar="GBPS",
        help="of a node's link, in Gbit/s (default: measured with all-reduce)",
    )
    calibrate.add_argument(
        "--classes", type=count, help="in the data set (default: from its annotations, or 80)"
    )


def _plan(options: argparse.Namespace) -> None:
    """Predict what every strategy would cost on a cluster, and rank them. Needs no GPU, and starts nothing except with --verify."""
    from rich.console import Console

    from yolo.planner.cost.strategies import GradientFidelity
    from yolo.planner.dataset_size import data_of
    from yolo.planner.hardware_catalog import requested_profile
    from yolo.planner.plan import make_plan
    from yolo.planner.resolution import resolve_for
    from yolo.planner.table import print_plan
    from yolo.recipe import load_recipe

    recipe, overrides = one_recipe(options)
    loaded = load_recipe(recipe, overrides)
    name, more = options.measured or options.cluster, (options.nodes, options.gpus_per_node)
    profile = requested_profile(loaded, name, *more, options.bandwidth)
    data = data_of(resolve_for(profile, loaded).recipe, options.images, options.classes)
    plan = make_plan(loaded, profile, GradientFidelity(options.allow), data)
    if options.json:
        print(plan.as_json())
    else:
        print_plan(plan, options.top)
    if options.scale:
        from yolo.planner.scaling import scale_lines, scaling_points, write_figure

        found = scaling_points(loaded, profile, data)
        write_figure(found, options.scale)
        print("\n".join(scale_lines(found)))
        print(f"wrote {options.scale}")
    if options.timeline:
        from yolo.planner.step_figure import write_step_figure

        write_step_figure(loaded, plan, options.timeline)
        print(f"wrote {options.timeline}")
    if options.verify:
        from yolo.calibration.verify import verified_table, verify

        Console().print(verified_table(verify(loaded, overrides, plan, options.verify)))


def _calibrate(options: argparse.Namespace) -> None:
    """Measure a cluster for `yolo plan`: collectives, computing, packing, jitter. Takes about a minute on the machines of
    the recipe, and writes a profile. If the profile exists, adds one more measurement to it."""
    from yolo.calibration.calibrate import calibrate

    recipe, overrides = one_recipe(options)
    profile = calibrate(recipe, overrides, options.out, options.bandwidth, options.classes)
    print(
        f"wrote {options.out}: {profile.ranks} ranks, {len(profile.measured)} measurements; "
        f"`yolo plan {recipe} --measured {options.out}` plans with it"
    )
