"""Print a plan: tables and reasons."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from yolo.planner.accuracy import LOSS_BOUND
from yolo.planner.plan import Plan, Ranked
from yolo.planner.prediction import Prediction
from yolo.planner.sharding import Mesh, Refused

FILE_WIDTH = 240
"""Columns of a table that is written to a file."""
TWIN = 1e-3
"""Share of a step: a line that differs by less from one above it, and changes more settings, is not shown."""


def print_plan(plan: Plan, most: int) -> None:
    """Print the table, the memory of the first strategy and the reasons."""
    console = Console(width=None if Console().is_terminal else FILE_WIDTH)
    console.print(f"{_heading(plan)}\n", highlight=False)
    console.print(_plan_table(plan, most))
    if plan.profile.ranks > 1:
        console.print(f"\n{_measurement(plan)}", highlight=False, soft_wrap=True)
    console.print(f"\nMemory per rank with {plan.first.label}:", highlight=False)
    console.print(_memory_table(plan.first.prediction))
    if plan.meshes:
        console.print("\nSharding, as written at the same global batch:", highlight=False)
        console.print(_sharding_table(plan.meshes))
    console.print("\nWhy:", highlight=False)
    for reason in plan.reasons:
        console.print(f"- {reason}", highlight=False, soft_wrap=True)


def _plan_table(plan: Plan, most: int) -> Table:
    """The best `most` strategies, the recipe as written, and torch's DDP."""
    headings = ("", "strategy", "AP kept", *_figures(plan.ddp), "settings")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        justify = "left" if heading in ("strategy", "settings") else "right"
        table.add_column(heading, justify=justify, no_wrap=heading != "settings")  # type: ignore[arg-type]
    shown = list(_without_twins(plan.ranked))[:most]
    if plan.as_written in plan.ranked and plan.as_written not in shown:
        shown.append(plan.as_written)
    for number, each in enumerate(shown, start=1):
        label = each.label if each.fits else f"{each.label} (does not fit)"
        table.add_row(str(number), label, *_cells(each))
    table.add_row(
        "", "torch DDP, for comparison", "same gradients", *_figures(plan.ddp).values(), ""
    )
    for each in list(_without_twins(plan.excluded))[:2]:
        label = f"{each.label} (needs --allow {each.fidelity.value})"
        table.add_row("", label, *_cells(each), style="dim")
    return table


def _cells(ranked: Ranked) -> list[str]:
    figures = _figures(ranked.prediction).values()
    return [str(ranked.accuracy), *figures, " ".join(ranked.overrides)]


def _figures(costs: Prediction) -> dict[str, str]:
    milliseconds = {
        "ms/step": costs.step_seconds,
        "compute": costs.compute_seconds,
        "exposed": costs.exposed_seconds,
        "codec": costs.codec_seconds,
        "slowest rank": costs.straggler_seconds,
        "data": costs.data_wait_seconds,
    }
    return {name: f"{seconds * 1e3:.1f}" for name, seconds in milliseconds.items()} | {
        "images/s": f"{costs.images_per_second:.0f}",
        "efficiency": f"{costs.efficiency:.0%}",
        "MB sent": f"{costs.wire_bytes / 1e6:.3g}",
        "GB": f"{costs.memory.total / 1e9:.2f}",
        "hours": f"{costs.run_hours:.3g}",
        "GPU-hours": f"{costs.gpu_hours:.3g}",
    }


def _memory_table(costs: Prediction) -> Table:
    """A rank's memory by part."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    parts = ("parameters", "gradients", "optimizer", "exchange", "activations", "total")
    for part in parts:
        table.add_column(part, justify="right")
    table.add_row(*(f"{getattr(costs.memory, part) / 1e9:.3f} GB" for part in parts))
    return table


def _sharding_table(found: Sequence[Mesh | Refused]) -> Table:
    """One line per number of columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("columns", "data", "GB", "ms/step", "images/s", "MB of halos", "MB sent"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for each in found:
        if isinstance(each, Refused):
            table.add_row(str(each.columns), *("",) * 6, each.why)
            continue
        costs = each.prediction
        table.add_row(
            *(str(each.columns), str(each.recipe.sharding.data)),
            f"{costs.memory.total / 1e9:.2f}",
            f"{costs.step_seconds * 1e3:.1f}",
            f"{costs.images_per_second:.0f}",
            f"{each.halo_bytes / 1e6:.3g}",
            f"{costs.wire_bytes / 1e6:.3g}",
            "" if each.fits else "does not fit",
        )
    return table


def _heading(plan: Plan) -> str:
    """The recipe and the cluster of a plan, in one line."""
    profile, recipe, data = plan.profile, plan.recipe, plan.data
    basis = "measured" if profile.measured else "by formula, nothing measured"
    shares = f"{recipe.sharding.data} ranks"
    if recipe.sharding.columns > 1:
        shares = f"{recipe.sharding.data} groups of {recipe.sharding.columns} ranks"
    return (
        f"yolov5{recipe.model.variant} at {recipe.model.image_size} pixels, {recipe.precision.dtype}, {data.classes} classes, "
        f"{data.images:,} images, {recipe.train.epochs} epochs; {profile.nodes} x {profile.gpus_per_node} "
        f"{profile.accelerator.name} over {profile.network.name}; global batch {recipe.train.global_batch} = "
        f"{shares} x {recipe.train.gradient_accumulation_steps} x {recipe.train.micro_batch}; {basis}"
    )


def _measurement(plan: Plan) -> str:
    """Where the column `AP kept` comes from, in one line."""
    return (
        f"AP kept: change of AP, measured on {plan.measured.described}. A strategy that lost more than {LOSS_BOUND}, or changes "
        "the gradients and was not measured, is not put first."
    )


def _without_twins(ranked: Sequence[Ranked]) -> Iterator[Ranked]:
    shown: list[Ranked] = []
    for each in ranked:
        step = each.prediction.step_seconds
        if not any(
            abs(other.prediction.step_seconds - step) < TWIN * step
            and other.prediction.run_hours <= each.prediction.run_hours * (1 + TWIN)
            and len(other.overrides) < len(each.overrides)
            and other.fits
            and other.accuracy.is_kept >= each.accuracy.is_kept
            for other in shown
        ):
            shown.append(each)
            yield each
