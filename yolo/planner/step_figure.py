"""A step as a picture: what a rank computes, what the network carries meanwhile, and where one waits for the other."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from yolo.planner.cost.timeline import StepTime
from yolo.planner.plan import Plan, resolve_for
from yolo.planner.prediction import step_time
from yolo.planner.scaling import DOTS_PER_INCH
from yolo.recipe import LoadedRecipe

DRAWN = ("stage 0", "ZeRO-2", "overlapped", "overlapped, bf16 wire", "1-bit Adam")
"""Strategies whose steps are all alike, drawn beside the recipe as written and the plan's choice."""
PARTS = {
    "forward": "#9db8d9",
    "backward": "#2f6fdb",
    "codec": "#e8792b",
    "update": "#5c6773",
}
NETWORK = "#d64550"
LEGEND = {"codec": "packing", "update": "optimizer's step"}


def step_times(loaded: LoadedRecipe, plan: Plan) -> dict[str, StepTime]:
    """The steps of the recipe as written, of the plan's choice and of some other strategies, by their names."""
    named = {each.label: each for each in (*plan.ranked, *plan.excluded)}
    wanted = (plan.as_written.label, plan.first.label, *DRAWN)
    return {
        name: step_time(
            plan.profile,
            resolve_for(plan.profile, loaded, *named[name].overrides).recipe,
            plan.data,
        )
        for name in dict.fromkeys(wanted)
        if name in named and named[name].prediction.phases[-1][1].collectives >= 1
    }


def step_figure(times: Mapping[str, StepTime], title: str) -> Figure:
    """One row for each strategy: computing above, the network below it."""
    drawing = Figure(figsize=(11, 1.6 + 0.62 * len(times)), layout="constrained")
    axes = drawing.subplots()
    longest = max(time.seconds for time in times.values())
    for row, time in enumerate(times.values()):
        for span in time.spans:
            place = (1e3 * span.start, 1e3 * (span.end - span.start))
            colour = NETWORK if span.is_network else PARTS[span.name]
            y, height = (row + 0.04, 0.22) if span.is_network else (row - 0.32, 0.34)
            edge = (
                0.4 if place[1] > 4 * longest else 0.0
            )  # none around slivers, which it would hide
            axes.broken_barh([place], (y, height), facecolor=colour, edgecolor="white", lw=edge)
        exposed = time.exposed_seconds * 1e3
        axes.text(
            1e3 * (time.seconds + 0.01 * longest),
            row,
            f"{1e3 * time.seconds:.1f} ms, {exposed:.1f} of it by communication",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    axes.set_xlim(0, 1e3 * longest * 1.3)
    axes.set_xlabel("milliseconds since the step began, on ranks that are equally fast")
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    patches = [Patch(color=colour, label=LEGEND.get(part, part)) for part, colour in PARTS.items()]
    patches.append(Patch(color=NETWORK, label="collective on the network"))
    drawing.legend(handles=patches, frameon=False, fontsize=9, loc="outside lower center", ncols=5)
    return drawing


def write_step_figure(loaded: LoadedRecipe, plan: Plan, path: Path) -> None:
    """Write the picture as PNG, or in the format of the path's suffix."""
    model = plan.recipe.model
    title = f"yolov5{model.variant} at {model.image_size} pixels on {plan.profile.name}"
    drawing = step_figure(step_times(loaded, plan), title)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=DOTS_PER_INCH)
