"""The ranked table of strategies for a recipe on a cluster, and why the first is first."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yolo.errors import RecipeError
from yolo.planner.candidates import AS_WRITTEN, Candidate, GradientFidelity, candidates
from yolo.planner.dataset_size import data_of
from yolo.planner.prediction import Data, Prediction, predict, predict_ddp
from yolo.planner.profile import ClusterProfile
from yolo.recipe import PreparedRecipe, ResolvedRecipe, prepare
from yolo.recipe.render.resolved_yaml import flatten
from yolo.recipe.schema.recipe import Recipe

ALIKE = 0.02
"""Strategies whose hours differ by less are taken for equal: the one that changes least comes first."""
ENOUGH = 0.05
"""Of a step: where communication adds less, no other strategy is worth its trouble."""
MEMORY_HEADROOM = 0.92
"""Of a GPU's memory: the rest is the driver's and what lies unused between tensors."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A strategy with its costs."""

    label: str
    overrides: tuple[str, ...]
    learns: GradientFidelity
    prediction: Prediction
    fits: bool
    """Whether a rank's memory holds it."""

    def as_json(self) -> dict[str, Any]:
        """For `yolo plan --json`."""
        costs = asdict(self.prediction)
        costs["memory"]["total"] = self.prediction.memory.total
        return {
            "strategy": self.label,
            "overrides": list(self.overrides),
            "learns": self.learns.name.lower(),
            "fits": self.fits,
            **costs,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """All strategies, the best first."""

    profile: ClusterProfile
    recipe: Recipe
    """As it is written, resolved."""
    data: Data
    ranked: tuple[Ranked, ...]
    """Those that may be chosen, the first the one to take."""
    beside: tuple[Ranked, ...]
    """Those that learn otherwise than was allowed."""
    ddp: Prediction
    """torch's DistributedDataParallel, which is no choice here: what the public trainer would take."""
    reasons: tuple[str, ...]

    @property
    def first(self) -> Ranked:
        """The strategy to take."""
        return self.ranked[0]

    @property
    def as_written(self) -> Ranked:
        """The recipe's own."""
        return next(each for each in (*self.ranked, *self.beside) if not each.overrides)

    def as_json(self) -> str:
        """The ranked list and the reasons."""
        content = {
            "cluster": self.profile.name,
            "ranks": self.profile.ranks,
            "ranked": [each.as_json() for each in self.ranked],
            "beside": [each.as_json() for each in self.beside],
            "reasons": list(self.reasons),
        }
        return json.dumps(content, indent=1)


def make_plan(
    path: Path,
    overrides: Sequence[str],
    profile: ClusterProfile,
    allowed: GradientFidelity = GradientFidelity.COMPRESSED,
    data: Data | None = None,
) -> Plan:
    """Predict every strategy and rank those that learn as is allowed.

    Raises RecipeError where the recipe cannot be launched on so many ranks.
    """
    written = prepare(path, _for_cluster(overrides, profile), profile.ranks, profile.gpus_per_node)
    resolved = written.resolved
    data = data or data_of(resolved.recipe)
    found: list[Ranked] = []
    for each in (*candidates(resolved, profile), AS_WRITTEN):
        ranked = _ranked(written, profile, each, data)
        if ranked is not None and not any(ranked.overrides == other.overrides for other in found):
            found.append(ranked)
    found.sort(key=lambda each: each.prediction.run_hours)
    allowed_ones = _first_to_the_front([each for each in found if each.learns <= allowed])
    beside = [each for each in found if each.learns > allowed]
    return Plan(
        profile=profile,
        recipe=resolved.recipe,
        data=data,
        ranked=tuple(allowed_ones),
        beside=tuple(beside),
        ddp=predict_ddp(profile, resolved.recipe, data),
        reasons=tuple(_reasons(profile, allowed_ones, beside)),
    )


def _for_cluster(overrides: Sequence[str], profile: ClusterProfile) -> list[str]:
    """The recipe on the profile's machines, whatever its own `cluster` section says."""
    return [
        *overrides,
        f"cluster.nodes={profile.nodes}",
        f"cluster.processes_per_node={profile.gpus_per_node}",
        f"cluster.backend={profile.backend}",
    ]


def _ranked(
    written: PreparedRecipe, profile: ClusterProfile, candidate: Candidate, data: Data
) -> Ranked | None:
    """None where rules refuse the strategy for this recipe."""
    try:
        resolved = written.with_values(*candidate.overrides).resolved
    except RecipeError:
        return None
    needed = tuple(_needed(written.resolved, resolved, candidate))
    is_written = not needed and candidate is not AS_WRITTEN
    prediction = predict(profile, resolved.recipe, data)
    limit = MEMORY_HEADROOM * profile.accelerator.memory_gb * 1e9
    return Ranked(
        f"{candidate.label} (as written)" if is_written else candidate.label,
        needed,
        candidate.learns if needed else GradientFidelity.SAME,
        prediction,
        fits=prediction.memory.total <= limit,
    )


def _needed(written: ResolvedRecipe, resolved: ResolvedRecipe, candidate: Candidate) -> list[str]:
    """The overrides that change the recipe as it is written."""
    before = dict(flatten(written.loaded.recipe.model_dump(mode="json")))
    after = dict(flatten(resolved.loaded.recipe.model_dump(mode="json")))
    last = {tuple(text.split("=")[0].split(".")): text for text in candidate.overrides}
    return [text for key, text in last.items() if before.get(key) != after.get(key)]


def _first_to_the_front(found: list[Ranked]) -> list[Ranked]:
    """Among those that fit and take next to no longer than the fastest, the one that changes least."""
    fitting = [each for each in found if each.fits] or found
    fastest = fitting[0].prediction.run_hours
    alike = [each for each in fitting if each.prediction.run_hours <= fastest * (1 + ALIKE)]
    first = min(alike, key=lambda each: (each.learns, len(each.overrides)))
    return [first, *(each for each in found if each is not first)]


def _reasons(
    profile: ClusterProfile, ranked: Sequence[Ranked], beside: Sequence[Ranked]
) -> list[str]:
    first = ranked[0]
    costs = first.prediction
    name = profile.between.name if profile.nodes > 1 else profile.within.name
    if profile.ranks == 1:
        return ["one rank exchanges nothing"]
    lost = costs.exposed_seconds + costs.codec_seconds
    share = lost / costs.step_seconds
    found = [
        f"{first.label}: {costs.step_seconds * 1e3:.1f} ms a step, of which communication adds {lost * 1e3:.1f} ms "
        f"({share:.0%}) over {name}"
    ]
    plain = next(
        (each for each in ranked if each.label.startswith("stage 0") and "bf16" not in each.label),
        None,
    )
    plain = plain or next((each for each in ranked if not each.overrides), None)
    if plain is not None and plain is not first:
        gain = plain.prediction.run_hours / costs.run_hours
        found.append(
            f"{plain.label} takes {plain.prediction.step_seconds * 1e3:.1f} ms and {gain:.2f} times the hours"
        )
    if share < ENOUGH:
        found.append(
            f"{name}: {first.label} is enough; compressing more could save {share:.0%} at most"
        )
    found += _one_bit_inequality(ranked, beside)
    if not first.fits:
        found.append("no strategy fits the memory: fewer images at once, or a smaller network")
    rather = [each for each in beside if each.fits]
    if rather:
        bold = rather[0]
        gain = costs.run_hours / bold.prediction.run_hours
        if gain > 1 + ALIKE:
            found.append(
                f"{bold.label} would be {gain:.2f} times as fast, and learns otherwise ({bold.learns.name.lower()}): "
                f"--allow {bold.learns.name.lower()}"
            )
    return found


def _one_bit_inequality(ranked: Sequence[Ranked], beside: Sequence[Ranked]) -> list[str]:
    """When one bit an element pays: the article's condition, with its numbers."""
    everything = [*ranked, *beside]
    one_bit = next((each for each in everything if each.label == "1-bit Adam"), None)
    overlapped = next((each for each in everything if each.label == "overlapped"), None)
    if one_bit is None or overlapped is None:
        return []
    left = overlapped.prediction.exposed_seconds * 1e3
    packing = one_bit.prediction.codec_seconds * 1e3
    sending = one_bit.prediction.exposed_seconds * 1e3
    pays = "pays" if left > packing + sending else "does not pay"
    return [
        f"1 bit {pays}: overlapped leaves {left:.1f} ms to wait, against {packing:.1f} ms of packing and {sending:.1f} ms of "
        "sending bits"
    ]
