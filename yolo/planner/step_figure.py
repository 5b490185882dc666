"""A step as a figure: what a rank computes, what the network carries meanwhile, and where one waits for the other."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from yolo.errors import PlanError
from yolo.planner.cost.timeline import StepTime
from yolo.planner.plan import Plan
from yolo.planner.prediction import step_time
from yolo.planner.resolution import resolve_for
from yolo.planner.scaling import DOTS_PER_INCH
from yolo.recipe import LoadedRecipe

COMPARED = ("stage 0", "ZeRO-2", "overlapped", "overlapped, bf16 wire", "1-bit Adam")
"""Drawn beside the recipe as written and the plan's choice."""
COLOURS = {
    "forward": "#9db8d9",
    "backward": "#2f6fdb",
    "codec": "#e8792b",
    "update": "#5c6773",
}
NETWORK = "#d64550"
LEGEND = {"codec": "packing", "update": "optimizer's step"}
SLIVER = 0.004
"""Spans of a smaller share of the longest step get no white edge, which would hide them."""


def step_times(loaded: LoadedRecipe, plan: Plan) -> dict[str, StepTime]:
    """The steps of the recipe as written, of the plan's choice and of some other strategies, by their names.

    Local steps are left out, and of strategies with the same step all but the first. Raises PlanError if nothing is left,
    and for one rank.
    """
    if plan.profile.ranks == 1:
        raise PlanError("--timeline: one rank communicates nothing")
    named = {each.label: each for each in (*plan.ranked, *plan.excluded)}
    wanted = (plan.as_written.label, plan.first.label, *COMPARED)
    times: dict[str, StepTime] = {}
    for name in dict.fromkeys(wanted):
        if name in named:
            recipe = resolve_for(plan.profile, loaded, *named[name].overrides).recipe
            time = step_time(plan.profile, recipe, plan.data)
            if time is not None and time not in times.values():
                times[name] = time
    if not times:
        raise PlanError("--timeline: no strategy synchronises in each step")
    return times


def step_figure(times: Mapping[str, StepTime], title: str) -> Figure:
    """One row for each strategy: computing above, the network below it."""
    drawing = Figure(figsize=(11, 1.6 + 0.62 * len(times)), layout="constrained")
    axes = drawing.subplots()
    longest = max(time.seconds for time in times.values())
    for row, time in enumerate(times.values()):
        for span in time.spans:
            axes.barh(
                row + 0.15 if span.is_network else row - 0.15,
                1e3 * (span.end - span.start),
                left=1e3 * span.start,
                height=0.22 if span.is_network else 0.34,
                color=NETWORK if span.is_network else COLOURS[span.name],
                edgecolor="white",
                linewidth=0.4 if span.end - span.start > SLIVER * longest else 0.0,
            )
        text = f"{1e3 * time.seconds:.1f} ms, {1e3 * time.exposed_seconds:.1f} of it exposed"
        axes.text(1e3 * (time.seconds + 0.01 * longest), row, text, va="center", fontsize=9)
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    axes.set_xlim(0, 1e3 * longest * 1.25)
    axes.set_xlabel("milliseconds since the step began, on ranks that are equally fast")
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    drawing.legend(
        handles=list(_patches()), frameon=False, fontsize=9, loc="outside lower center", ncols=5
    )
    return drawing


def _patches() -> Iterable[Patch]:
    for part, colour in COLOURS.items():
        yield Patch(color=colour, label=LEGEND.get(part, part))
    yield Patch(color=NETWORK, label="collective on the network")


def write_step_figure(loaded: LoadedRecipe, plan: Plan, path: Path) -> None:
    """Write the figure as PNG, or in the format of the path's suffix. Raises PlanError if there is no step to draw."""
    model = plan.recipe.model
    title = f"yolov5{model.variant} at {model.image_size} pixels on {plan.profile.name}"
    drawing = step_figure(step_times(loaded, plan), title)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=DOTS_PER_INCH)
