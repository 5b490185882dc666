"""Whole images on each rank, or each image's columns over several: what a plan says on `sharding.columns`.

Columns are for images that do not fit: they send messages in every layer, and the gradients as well.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import gcd, sqrt
from typing import Any

from yolo.errors import RecipeError
from yolo.planner.cost.collectives import collective_cost
from yolo.planner.cost.halos import (
    backward_halos,
    backward_statistics,
    forward_halos,
    forward_statistics,
)
from yolo.planner.cost.model_stats import yolov5
from yolo.planner.prediction import Data, Prediction, predict
from yolo.planner.profile import ClusterProfile
from yolo.planner.resolution import resolve_for
from yolo.recipe import LoadedRecipe
from yolo.recipe.schema.recipe import Recipe

COLUMNS = (1, 2, 4, 8)
BEARABLE = 0.05
"""Share of a step that messages between nodes may add."""
SLOWEST_GBPS, FASTEST_GBPS = 0.01, 1e5
"""Between them lies the link speed from which on they add less."""
HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Mesh:
    """The ranks as data x columns, at the recipe's global batch, and its micro batch if that divides."""

    columns: int
    recipe: Recipe
    prediction: Prediction
    fits: bool
    """Whether it fits into a rank's memory."""

    @property
    def memory(self) -> str:
        """Of a rank, for a reason."""
        return f"{self.prediction.memory.total / 1e9:.3g} GB"

    @property
    def halo_bytes(self) -> float:
        """Columns that a rank sends to its neighbours per step, as the mean over the ranks."""
        halos = (*forward_halos(self.recipe), *backward_halos(self.recipe))
        micro_steps = self.recipe.train.gradient_accumulation_steps
        return micro_steps * sum(each.payload_bytes for each in halos)

    def as_json(self) -> dict[str, Any]:
        """For `yolo plan --json`."""
        costs = asdict(self.prediction)
        costs["memory"]["total"] = self.prediction.memory.total
        kept = ("step_seconds", "images_per_second", "exposed_seconds", "sent_bytes", "memory")
        return {
            "data": self.recipe.sharding.data,
            "columns": self.columns,
            "fits": self.fits,
            "halo_bytes": self.halo_bytes,
            **{name: costs[name] for name in kept},
        }


@dataclass(frozen=True, slots=True)
class Refused:
    """A number of columns that the recipe cannot be launched with."""

    columns: int
    why: str

    def as_json(self) -> dict[str, Any]:
        """For `yolo plan --json`."""
        return asdict(self)


def meshes(
    loaded: LoadedRecipe, profile: ClusterProfile, written: Recipe, data: Data
) -> tuple[Mesh | Refused, ...]:
    """Each number of columns that divides the ranks, the recipe's own among them; none for one rank."""
    counts = sorted({*COLUMNS, written.sharding.columns}) if profile.ranks > 1 else ()
    return tuple(
        _mesh(loaded, profile, written, data, columns)
        for columns in counts
        if profile.ranks % columns == 0
    )


def _mesh(
    loaded: LoadedRecipe, profile: ClusterProfile, written: Recipe, data: Data, columns: int
) -> Mesh | Refused:
    overrides: tuple[str, ...] = ()
    if columns != written.sharding.columns:
        images = gcd(
            written.train.micro_batch, written.train.global_batch * columns // profile.ranks
        )
        overrides = (
            *(f"sharding.columns={columns}", "sharding.data=auto"),
            f"train.micro_batch={max(1, images)}",
            "train.gradient_accumulation_steps=auto",
        )
    try:
        recipe = resolve_for(profile, loaded, *overrides).recipe
    except RecipeError as error:
        return Refused(columns, str(error).splitlines()[0].partition(": ")[2])
    prediction = predict(profile, recipe, data)
    return Mesh(columns, recipe, prediction, prediction.fits(profile))


def sharding_reasons(
    found: Sequence[Mesh | Refused], profile: ClusterProfile, written: Recipe, data: Data
) -> Iterator[str]:
    """How many columns are needed, and what they would cost between nodes."""
    possible = [each for each in found if isinstance(each, Mesh)]
    if not possible:
        return
    limit = f"{profile.accelerator.memory_gb:.3g} GB"
    least = next((each for each in possible if each.fits), None)
    own = next((each for each in possible if each.columns == written.sharding.columns), None)
    if least is None:
        fullest = possible[-1]
        yield (
            f"sharding: nothing fits {limit}, up to sharding.columns={fullest.columns} with {fullest.memory}; use smaller images, a "
            "smaller train.micro_batch or a smaller model"
        )
    elif least.columns > 1:
        fewer = ", ".join(
            f"{each.memory} with {each.columns}"
            for each in possible
            if each.columns < least.columns
        )
        yield (
            f"sharding.columns={least.columns} is the least that fits {limit}: {least.memory} per rank"
            + (f", against {fewer}" if fewer else "")
        )
    elif own is None or own is least:
        yield f"sharding: whole images fit, {least.memory} of {limit}; columns only save memory"
    else:
        ratio = own.prediction.step_seconds / least.prediction.step_seconds
        yield (
            f"sharding: whole images fit, {least.memory} of {limit}: sharding.columns={own.columns} takes {ratio:.2f} times as "
            "long, and only saves memory"
        )
    split = [each for each in possible if each.columns > 1]
    if split and profile.nodes > 1:
        yield _between_nodes(profile, split[0], data)


def _between_nodes(profile: ClusterProfile, mesh: Mesh, data: Data) -> str:
    """What images on two nodes each would cost, and from which link speed on that is bearable."""
    recipe = mesh.recipe.model_copy(
        update={"sharding": mesh.recipe.sharding.model_copy(update={"columns": 2})}
    )
    network = yolov5(recipe.model.variant, data.classes, recipe.model.image_size)
    events = (
        *(*forward_halos(recipe), *backward_halos(recipe)),
        *forward_statistics(recipe, network, 2),
        *backward_statistics(recipe, network, 2),
    )
    pair = profile.with_nodes(profile.ranks, 1).group(2)
    computing = predict(profile, recipe, data).compute_seconds

    def added_at(gbps: float) -> float:
        there = pair.with_bandwidth(gbps)
        costs = (collective_cost(there, e.kind, e.payload_bytes, e.messages) for e in events)
        return recipe.train.gradient_accumulation_steps * sum(each.seconds for each in costs)

    def share_at(gbps: float) -> float:
        return added_at(gbps) / (computing + added_at(gbps))

    here = profile.between.bandwidth_gbps
    return (
        f"if an image lay on two nodes of {profile.between.name}: {len(events)} exchanges per micro batch take "
        f"{added_at(here) * 1e3:.3g} ms per step, {share_at(here):.0%} of it; {_turning_point(share_at)}"
    )


def _turning_point(share_at: Callable[[float], float]) -> str:
    bearable = f"less than {BEARABLE:.0%}"
    if (alone := share_at(FASTEST_GBPS)) >= BEARABLE:
        return f"on no link {bearable}: their latency alone is {alone:.0%}"
    slow, fast = SLOWEST_GBPS, FASTEST_GBPS
    for _ in range(HALVINGS):
        middle = sqrt(slow * fast)
        slow, fast = (slow, middle) if share_at(middle) < BEARABLE else (middle, fast)
    return f"from {fast:.2g} Gbit/s on {bearable}"
