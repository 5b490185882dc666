"""How far a cluster scales: images/s and efficiency from 1 to 1,024 nodes, and where each network stops."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from yolo.planner.hardware_catalog import MOST_NODES, NETWORKS
from yolo.planner.prediction import Data, predict
from yolo.planner.profile import ClusterProfile
from yolo.recipe import LoadedRecipe, prepare, prepare_loaded

STOPS = 0.5
"""Efficiency below which GPUs are thrown away."""
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
ELSEWHERE = ("stage 0", "overlapped", "1-bit Adam")
"""Those that are also followed over the other networks."""


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
        """GPUs at which efficiency falls below `STOPS`; None where it does not."""
        pairs = zip(self.gpus, self.efficiency, strict=True)
        return next((gpus for gpus, share in pairs if share < STOPS), None)


def reaches(
    path: Path, overrides: Sequence[str], profile: ClusterProfile, data: Data
) -> list[ScalingPoint]:
    """Every strategy over the profile's own network, and over those of the catalogue. The images of a GPU stay."""
    written = prepare(path, overrides, profile.ranks, profile.gpus_per_node).resolved
    each_gpu = written.recipe.train.global_batch // profile.ranks
    networks = {profile.between.name: profile}
    if not profile.measured:
        networks |= {
            link.name: profile.model_copy(update={"between": link}) for link in NETWORKS.values()
        }
    return [
        _reach(written.loaded, name, chosen, network, of, each_gpu, data)
        for network, of in networks.items()
        for name, (chosen, _) in STRATEGIES.items()
        if network == profile.between.name or name in ELSEWHERE
    ]


def _reach(
    loaded: LoadedRecipe,
    name: str,
    chosen: Sequence[str],
    network: str,
    profile: ClusterProfile,
    each_gpu: int,
    data: Data,
) -> ScalingPoint:
    gpus, rates, shares = [], [], []
    nodes = 1
    while nodes <= MOST_NODES:
        scaled = profile.with_nodes(nodes)
        ranks = scaled.ranks
        wanted = [
            *(f"cluster.nodes={nodes}", f"cluster.processes_per_node={scaled.gpus_per_node}"),
            *(f"train.global_batch={each_gpu * ranks}", f"cluster.backend={profile.backend}"),
            *chosen,
        ]
        written = loaded.with_values(*wanted)
        recipe = prepare_loaded(written, ranks, scaled.gpus_per_node).resolved.recipe
        costs = predict(scaled, recipe, data)
        gpus.append(ranks)
        rates.append(costs.images_per_second)
        shares.append(costs.efficiency)
        nodes *= 2
    return ScalingPoint(name, network, tuple(gpus), tuple(rates), tuple(shares))


def scale_lines(found: Sequence[ScalingPoint]) -> list[str]:
    """Where each network stops scaling under each strategy."""
    lines = [f"GPUs at which efficiency falls below {STOPS:.0%} (the images of a GPU stay):"]
    for network in dict.fromkeys(each.network for each in found):
        parts = [
            f"{each.strategy} {each.stops_at or 'never'}"
            for each in found
            if each.network == network
        ]
        lines.append(f"  {network}: {', '.join(parts)}")
    return lines


def figure(found: Sequence[ScalingPoint]) -> Figure:
    """Images/s and efficiency over GPUs for the strategies on the first network; efficiency over GPUs for networks."""
    own = found[0].network
    networks = list(dict.fromkeys(each.network for each in found))
    columns = 3 if len(networks) > 1 else 2
    drawing = Figure(figsize=(2.0 + 5.0 * columns, 4.4), layout="constrained")
    panels = drawing.subplots(1, columns, squeeze=False)[0]
    for each in (each for each in found if each.network == own):
        colour = STRATEGIES[each.strategy][1]
        panels[0].plot(each.gpus, each.images_per_second, color=colour, lw=1.8, label=each.strategy)
        panels[1].plot(each.gpus, each.efficiency, color=colour, lw=1.8, label=each.strategy)
    panels[0].set_yscale("log")
    _settle(panels[0], f"images/s over {own}")
    _settle(panels[1], f"efficiency over {own}")
    panels[0].legend(frameon=False, fontsize=9)
    if columns == 3:
        shown = [each for each in found if each.strategy == "overlapped"]
        colours = colormaps["viridis"].resampled(len(shown) + 1)
        for shade, each in enumerate(sorted(shown, key=lambda each: each.efficiency[-1])):
            panels[2].plot(
                each.gpus, each.efficiency, color=colours(shade), lw=1.6, label=each.network
            )
        _settle(panels[2], "efficiency of overlapped over networks")
        panels[2].legend(
            frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), reverse=True
        )
    for axes in panels[1:]:
        axes.set_ylim(0, 1.02)
        axes.axhline(STOPS, color="#8a94a0", lw=0.8, ls=":")
    return drawing


def _settle(axes: Axes, title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("GPUs")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(color="#edf0f3", lw=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def write_figure(found: Sequence[ScalingPoint], path: Path) -> None:
    """As PNG or whatever the file's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure(found).savefig(path, dpi=DOTS_PER_INCH)
