"""A plan for people: a table, and the reasons for its first line."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from yolo.planner.plan import Plan, Ranked
from yolo.planner.prediction import Prediction

TWIN = 1e-3
"""Of a step: lines that differ by less, and change more settings than one above them, are not shown."""


def plan_table(plan: Plan, most: int) -> Table:
    """The best `most` strategies, the recipe as it is written, and torch's DDP."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, kind in COLUMNS:
        table.add_column(heading, justify=kind, no_wrap=heading != "settings")  # type: ignore[arg-type]
    shown = list(_without_twins(plan.ranked))[:most]
    if plan.as_written in plan.ranked and plan.as_written not in shown:
        shown.append(plan.as_written)
    for number, each in enumerate(shown, start=1):
        mark = "" if each.fits else " (does not fit)"
        settings = " ".join(each.overrides)
        table.add_row(str(number), each.label + mark, *_cells(each.prediction), settings)
    table.add_row("", "torch DDP, for comparison", *_cells(plan.ddp), "")
    for each in list(_without_twins(plan.beside))[:2]:
        note = f"{each.label} (learns otherwise)"
        table.add_row("", note, *_cells(each.prediction), " ".join(each.overrides), style="dim")
    return table


COLUMNS = (
    ("", "right"),
    ("strategy", "left"),
    ("ms/step", "right"),
    ("compute", "right"),
    ("exposed", "right"),
    ("codec", "right"),
    ("slowest rank", "right"),
    ("data", "right"),
    ("images/s", "right"),
    ("efficiency", "right"),
    ("MB sent", "right"),
    ("GB", "right"),
    ("hours", "right"),
    ("GPU-hours", "right"),
    ("settings", "left"),
)


def _cells(costs: Prediction) -> list[str]:
    milliseconds = (
        costs.step_seconds,
        costs.compute_seconds,
        costs.exposed_seconds,
        costs.codec_seconds,
        costs.straggler_seconds,
        costs.data_wait_seconds,
    )
    return [
        *(f"{seconds * 1e3:.1f}" for seconds in milliseconds),
        f"{costs.images_per_second:.0f}",
        f"{costs.efficiency:.0%}",
        f"{costs.wire_bytes / 1e6:.3g}",
        f"{costs.memory.total / 1e9:.2f}",
        f"{costs.run_hours:.3g}",
        f"{costs.gpu_hours:.3g}",
    ]


def memory_table(costs: Prediction) -> Table:
    """Where a rank's memory goes."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    memory = costs.memory
    parts = ("parameters", "gradients", "optimizer", "exchange", "activations", "total")
    for part in parts:
        table.add_column(part, justify="right")
    table.add_row(*(f"{getattr(memory, part) / 1e9:.3f} GB" for part in parts))
    return table


def heading(plan: Plan) -> str:
    """What the plan is of."""
    profile, recipe, data = plan.profile, plan.recipe, plan.data
    network = profile.between.name if profile.nodes > 1 else profile.within.name
    basis = "measured" if profile.measured else "by formula, nothing measured"
    return (
        f"yolov5{recipe.model.variant} at {recipe.model.image_size} pixels, {recipe.precision.dtype}, {data.classes} classes, "
        f"{data.images:,} images, {recipe.train.epochs} epochs; {profile.nodes} x {profile.gpus_per_node} "
        f"{profile.accelerator.name} over {network}; global batch {recipe.train.global_batch} = {profile.ranks} ranks x "
        f"{recipe.train.gradient_accumulation_steps} x {recipe.train.micro_batch}; {basis}"
    )


def _without_twins(ranked: Sequence[Ranked]) -> Iterator[Ranked]:
    shown: list[Ranked] = []
    for each in ranked:
        step = each.prediction.step_seconds
        if any(
            abs(other.prediction.step_seconds - step) < TWIN * step
            and other.prediction.run_hours <= each.prediction.run_hours * (1 + TWIN)
            and len(other.overrides) < len(each.overrides)
            and other.fits
            for other in shown
        ):
            continue
        shown.append(each)
        yield each
