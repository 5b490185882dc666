"""How far a cluster scales: images/s and efficiency from 1 to 1,024 nodes, and where each network stops."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from yolo.planner.candidates import without_strategy
from yolo.planner.hardware_catalog import MOST_NODES, NETWORKS
from yolo.planner.prediction import Data, predict
from yolo.planner.profile import ClusterProfile
from yolo.planner.resolution import resolve_for
from yolo.recipe import LoadedRecipe

STOPS = 0.5
"""Below this efficiency more GPUs are wasted."""
DOTS_PER_INCH = 130
STRATEGIES = {
    "stage 0": ((), "#1f2933"),
    "ZeRO-2": (("zero.stage=2",), "#d64550"),
    "overlapped": (("communication.reducer=overlapped",), "#2a9d6f"),
    "overlapped, bf16 wire": (
        ("communication.reducer=overlapped", "communication.data_type=bf16"),
        "#e8792b",
    ),
    "1-bit Adam": (("optimizer.type=OneBitAdam",), "#2f6fdb"),
    "0/1 Adam": (("optimizer.type=ZeroOneAdam",), "#17a2b8"),
}
"""With the overrides and the colour of each."""
ON_OTHER_NETWORKS = ("stage 0", "overlapped", "1-bit Adam")
"""Strategies that are also predicted for the other networks."""


@dataclass(frozen=True, slots=True)
class ScalingPoint:
    """One strategy over one network at growing numbers of nodes."""

    strategy: str
    network: str
    gpus: tuple[int, ...]
    images_per_second: tuple[float, ...]
    efficiency: tuple[float, ...]

    @property
    def stops_at(self) -> int | None:
        """GPUs at which efficiency falls below `STOPS`; None if it never does."""
        pairs = zip(self.gpus, self.efficiency, strict=True)
        return next((gpus for gpus, share in pairs if share < STOPS), None)


def scaling_points(loaded: LoadedRecipe, profile: ClusterProfile, data: Data) -> list[ScalingPoint]:
    """All strategies over the profile's own network, and some over those of the catalogue, with constant images per GPU."""
    written = resolve_for(profile, loaded).recipe
    plain = without_strategy(written)
    columns = written.sharding.columns
    images_per_share = written.train.global_batch // written.sharding.data
    networks = {profile.between.name: profile}
    if not profile.measured:
        networks |= {
            link.name: profile.model_copy(update={"between": link}) for link in NETWORKS.values()
        }

    def point(strategy: str, network: str) -> ScalingPoint:
        found = []
        for doublings in range(MOST_NODES.bit_length()):
            scaled = networks[network].with_nodes(2**doublings)
            if scaled.ranks % columns:
                continue
            batch = f"train.global_batch={images_per_share * scaled.ranks // columns}"
            overrides = (batch, "sharding.data=auto", *plain, *STRATEGIES[strategy][0])
            resolved = resolve_for(scaled, loaded, *overrides)
            costs = predict(scaled, resolved.recipe, data)
            found.append((scaled.ranks, costs.images_per_second, costs.efficiency))
        return ScalingPoint(strategy, network, *zip(*found, strict=True))

    return [
        point(strategy, network)
        for network in networks
        for strategy in STRATEGIES
        if network == profile.between.name or strategy in ON_OTHER_NETWORKS
    ]


def scale_lines(found: Sequence[ScalingPoint]) -> list[str]:
    """Where each network stops scaling with each strategy."""
    lines = [f"GPUs at which efficiency falls below {STOPS:.0%} (with constant images per GPU):"]
    for network in dict.fromkeys(each.network for each in found):
        here = [each for each in found if each.network == network]
        parts = [f"{each.strategy} {each.stops_at or 'never'}" for each in here]
        lines.append(f"  {network}: {', '.join(parts)}")
    return lines


def figure(found: Sequence[ScalingPoint]) -> Figure:
    """Images/s and efficiency over GPUs: strategies on the first network, and `overlapped` on all networks."""
    own = [each for each in found if each.network == found[0].network]
    columns = 3 if len(own) < len(found) else 2
    drawing = Figure(figsize=(2.0 + 5.0 * columns, 4.4), layout="constrained")
    panels = drawing.subplots(1, columns, squeeze=False)[0]
    for each in own:
        style = {"color": STRATEGIES[each.strategy][1], "lw": 1.8, "label": each.strategy}
        panels[0].plot(each.gpus, each.images_per_second, **style)
        panels[1].plot(each.gpus, each.efficiency, **style)
    panels[0].set_yscale("log")
    _format(panels[0], f"images/s over {own[0].network}")
    _format(panels[1], f"efficiency over {own[0].network}")
    panels[0].legend(frameon=False, fontsize=9)
    if columns == 3:
        shown = [each for each in found if each.strategy == "overlapped"]
        colours = colormaps["viridis"].resampled(len(shown) + 1)
        for shade, each in enumerate(sorted(shown, key=lambda each: each.efficiency[-1])):
            panels[2].plot(
                each.gpus, each.efficiency, color=colours(shade), lw=1.6, label=each.network
            )
        _format(panels[2], "efficiency of overlapped over networks")
        panels[2].legend(
            frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), reverse=True
        )
    for axes in panels[1:]:
        axes.set_ylim(0, 1.02)
        axes.axhline(STOPS, color="#8a94a0", lw=0.8, ls=":")
    return drawing


def _format(axes: Axes, title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("GPUs")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(color="#edf0f3", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(found: Sequence[ScalingPoint], path: Path) -> None:
    """Write the chart as PNG, or in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure(found).savefig(path, dpi=DOTS_PER_INCH)
