"""Rank the strategies for a recipe on a cluster, and explain why the first is first; `strategy: auto` takes it.

First is the fastest of those that keep the AP (`accuracy`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from yolo.errors import RecipeError
from yolo.planner.accuracy import LOSS_BOUND, SHIPPED, KeptAccuracy, MeasuredAccuracy
from yolo.planner.candidates import AS_WRITTEN, Candidate, candidates
from yolo.planner.cost.strategies import GradientFidelity
from yolo.planner.dataset_size import data_of
from yolo.planner.hardware_catalog import profile_of
from yolo.planner.prediction import Data, Prediction, predict, predict_ddp
from yolo.planner.profile import ClusterProfile
from yolo.planner.resolution import resolve_for
from yolo.planner.sharding import Mesh, Refused, meshes, sharding_reasons
from yolo.recipe import LoadedRecipe, ResolvedRecipe
from yolo.recipe.render.resolved_yaml import flatten
from yolo.recipe.schema.recipe import Recipe

ALIKE = 0.02
"""Strategies whose hours differ by a smaller share count as equal; of these, the one that changes least comes first."""
ENOUGH = 0.05
"""If communication adds a smaller share of a step, no other strategy is worth its trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked(Candidate):
    """A strategy with its costs, and without overrides that change nothing."""

    prediction: Prediction
    fits: bool
    """Whether it fits into a rank's memory."""
    accuracy: KeptAccuracy

    def as_json(self) -> dict[str, Any]:
        """For `yolo plan --json`."""
        costs = asdict(self.prediction)
        costs["memory"]["total"] = self.prediction.memory.total
        return {
            "strategy": self.label,
            "overrides": list(self.overrides),
            "learns": self.fidelity.value,
            "fits": self.fits,
            "ap_kept": str(self.accuracy),
            "ap_change": self.accuracy.change,
            "keeps_ap": self.accuracy.is_kept,
            **costs,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """All strategies, the best first."""

    profile: ClusterProfile
    recipe: Recipe
    """As written, resolved."""
    data: Data
    ranked: tuple[Ranked, ...]
    """The allowed strategies; the first is the plan's choice."""
    excluded: tuple[Ranked, ...]
    """Strategies that change the gradients more than is allowed."""
    ddp: Prediction
    """torch's DistributedDataParallel, which the public trainer uses: for comparison, not a choice here."""
    reasons: tuple[str, ...]
    measured: MeasuredAccuracy
    """Where the strategies' AP comes from."""
    meshes: tuple[Mesh | Refused, ...]
    """The recipe as written with other numbers of columns per image."""

    @property
    def first(self) -> Ranked:
        """The plan's choice."""
        return self.ranked[0]

    @property
    def as_written(self) -> Ranked:
        """The recipe's own strategy."""
        return next(each for each in (*self.ranked, *self.excluded) if not each.overrides)

    def as_json(self) -> str:
        """The ranked list and the reasons."""
        content = {
            "cluster": self.profile.name,
            "ranks": self.profile.ranks,
            "ranked": [each.as_json() for each in self.ranked],
            "beside": [each.as_json() for each in self.excluded],
            "sharding": [each.as_json() for each in self.meshes],
            "reasons": list(self.reasons),
            "accuracy": {
                "loss_bound": LOSS_BOUND,
                "described": self.measured.described,
                "setup": asdict(self.measured.setup),
            },
        }
        return json.dumps(content, indent=1)


@dataclass(frozen=True, slots=True)
class Choice:
    """What `strategy: auto` chooses, the reasons for it, and the alternatives."""

    overrides: tuple[str, ...]
    """To put on top of the recipe; they settle `strategy` too."""
    reasons: tuple[str, ...]
    plan: Plan


def choose(
    resolved: ResolvedRecipe, data: Data | None = None, measured: MeasuredAccuracy | None = None
) -> Choice:
    """Choose the first strategy of the plan for the recipe's profile, on the ranks it is resolved for.

    It adds no local steps, no other kind of optimizer, and nothing that does not keep the AP. The same on every rank: it
    depends on the recipe, the profile, the data and `measured` only. Raises PlanError if the profile cannot be read.
    """
    plan = make_plan(resolved.loaded, profile_of(resolved), data=data, measured=measured)
    first = plan.first
    reason = f"strategy auto: {first.label} ({' '.join(first.overrides) or 'as written'})"
    return Choice((*first.overrides, "strategy=as_written"), (reason, *plan.reasons), plan)


def make_plan(
    loaded: LoadedRecipe,
    profile: ClusterProfile,
    allowed: GradientFidelity = GradientFidelity.COMPRESSED,
    data: Data | None = None,
    measured: MeasuredAccuracy | None = None,
) -> Plan:
    """Predict all strategies, and rank those whose gradients are as close as `allowed` or closer.

    `measured` says what AP they keep; None: the shipped measurement. Raises RecipeError if the recipe cannot be launched on
    the profile's ranks.
    """
    measured = measured or MeasuredAccuracy.read(SHIPPED)
    written = resolve_for(profile, loaded)
    data = data or data_of(written.recipe)
    before = _stated(written)
    by_overrides: dict[tuple[str, ...], Ranked] = {}
    for candidate in (*candidates(written, profile), AS_WRITTEN):
        try:
            resolved = resolve_for(profile, loaded, *candidate.overrides)
        except RecipeError:  # rules refuse the strategy for this recipe
            continue
        accuracy = measured.kept(_as_computed(profile, resolved).recipe)
        ranked = _ranked(profile, before, resolved, candidate, data, accuracy)
        by_overrides.setdefault(ranked.overrides, ranked)
    found = sorted(by_overrides.values(), key=lambda each: each.prediction.run_hours)
    choices = _best_first([each for each in found if each.fidelity <= allowed])
    excluded = [each for each in found if each.fidelity > allowed]
    sharded = meshes(loaded, profile, written.recipe, data)
    return Plan(
        profile=profile,
        recipe=written.recipe,
        data=data,
        ranked=tuple(choices),
        excluded=tuple(excluded),
        ddp=predict_ddp(profile, written.recipe, data),
        reasons=(
            *_reasons(profile, choices, excluded, measured),
            *_backend_reason(profile, loaded.recipe.cluster.backend),
            *_sync_batchnorm_reason(profile, loaded, choices[0], data),
            *sharding_reasons(sharded, profile, written.recipe, data),
        ),
        measured=measured,
        meshes=sharded,
    )


def _as_computed(profile: ClusterProfile, resolved: ResolvedRecipe) -> ResolvedRecipe:
    """With bf16 for `precision.dtype: auto`: what ranks that have it will choose, and ZeRO then sends.

    At stage 0 the wire's format does not depend on it.
    """
    if resolved.loaded.recipe.precision.dtype != "auto" or not resolved.recipe.zero.stage:
        return resolved
    return resolve_for(profile, resolved.loaded, "precision.dtype=bf16")


def _stated(resolved: ResolvedRecipe) -> dict[tuple[str, ...], Any]:
    return dict(flatten(resolved.loaded.recipe.model_dump(mode="json")))


def _ranked(
    profile: ClusterProfile,
    before: dict[tuple[str, ...], Any],
    resolved: ResolvedRecipe,
    candidate: Candidate,
    data: Data,
    accuracy: KeptAccuracy,
) -> Ranked:
    after = _stated(resolved)
    last = {tuple(text.split("=")[0].split(".")): text for text in candidate.overrides}
    needed = tuple(text for key, text in last.items() if before.get(key) != after.get(key))
    is_written = not needed and candidate is not AS_WRITTEN
    prediction = predict(profile, resolved.recipe, data)
    return Ranked(
        f"{candidate.label} (as written)" if is_written else candidate.label,
        needed,
        candidate.fidelity if needed else GradientFidelity.SAME,
        prediction=prediction,
        fits=prediction.fits(profile),
        accuracy=accuracy,
    )


def _best_first(found: list[Ranked]) -> list[Ranked]:
    """Move the plan's choice to the front: of those that keep the AP, fit and are about as fast as the fastest, the least change.

    If none keeps the AP, it is the recipe as written.
    """
    kept = [each for each in found if each.accuracy.is_kept]
    kept = kept or [each for each in found if not each.overrides]
    fitting = [each for each in kept if each.fits] or kept
    fastest = fitting[0].prediction.run_hours
    alike = [each for each in fitting if each.prediction.run_hours <= fastest * (1 + ALIKE)]
    first = min(alike, key=lambda each: (each.fidelity, len(each.overrides)))
    return [first, *(each for each in found if each is not first)]


def _reasons(
    profile: ClusterProfile,
    ranked: Sequence[Ranked],
    excluded: Sequence[Ranked],
    measured: MeasuredAccuracy,
) -> Iterator[str]:
    if profile.ranks == 1:
        yield "one rank communicates nothing"
        return
    first, network = ranked[0], profile.network.name
    costs = first.prediction
    lost = costs.exposed_seconds + costs.codec_seconds
    share = lost / costs.step_seconds
    yield (
        f"{first.label}: {costs.step_seconds * 1e3:.1f} ms per step, of which communication adds {lost * 1e3:.1f} ms "
        f"({share:.0%}) over {network}"
    )
    plain = [
        each for each in ranked if each.label.startswith("stage 0") and "bf16" not in each.label
    ]
    plain += [each for each in ranked if not each.overrides]
    if plain and plain[0] is not first:
        step_ms = plain[0].prediction.step_seconds * 1e3
        ratio = plain[0].prediction.run_hours / costs.run_hours
        yield f"{plain[0].label} takes {step_ms:.1f} ms and {ratio:.2f} times the hours"
    if share < ENOUGH:
        yield f"{network}: {first.label} is enough; more compression could save {share:.0%} at most"
    yield from _one_bit_inequality([*ranked, *excluded])
    if not first.fits:
        yield (
            "no strategy that keeps the AP fits into memory: use a smaller train.micro_batch, a smaller model, or "
            "sharding.columns (below)"
        )
    yield from _passed_over(first, [*ranked, *excluded], measured)
    bold = next((each for each in excluded if each.fits and each.accuracy.is_kept), None)
    if bold and (gain := costs.run_hours / bold.prediction.run_hours) > 1 + ALIKE:
        yield (
            f"{bold.label} would be {gain:.2f} times as fast, but changes the gradients more; to allow it: --allow "
            f"{bold.fidelity.value}"
        )


def _backend_reason(profile: ClusterProfile, backend: str) -> Iterator[str]:
    """Whether the recipe would run over other collectives than the profile's. `auto` is gloo or nccl, by the machine."""
    alike = ("gloo", "nccl") if backend == "auto" else (backend,)
    if profile.backend not in alike:
        yield (
            f"warning: the collectives of {profile.name} are {profile.backend}'s, and cluster.backend is {backend}: set it to "
            f"{profile.backend}, or calibrate with the recipe's"
        )


def _sync_batchnorm_reason(
    profile: ClusterProfile, loaded: LoadedRecipe, first: Ranked, data: Data
) -> Iterator[str]:
    """What SyncBatchNorm costs. Leaving it out is no strategy: it changes what is learnt, and not only the gradients."""
    recipe = resolve_for(profile, loaded, *first.overrides).recipe
    if not recipe.model.sync_batchnorm:
        return
    without = resolve_for(profile, loaded, *first.overrides, "model.sync_batchnorm=false").recipe
    added = first.prediction.step_seconds - predict(profile, without, data).step_seconds
    yield (
        f"SyncBatchNorm inside a node adds {added * 1e3:.1f} ms per step to {first.label}; with model.sync_batchnorm=false "
        f"each rank would normalise by its own {recipe.train.micro_batch} images, and learn something else"
    )


def _passed_over(
    first: Ranked, strategies: Sequence[Ranked], measured: MeasuredAccuracy
) -> Iterator[str]:
    """The recipe as written, if it lost AP; the fastest strategy that did, and the fastest whose AP is not known."""
    for each in strategies:
        change = each.accuracy.change
        if not each.overrides and change is not None and not each.accuracy.is_kept:
            yield f"warning: {each.label}: this strategy lost {-change:.3f} AP on {measured.setup.base}"
    faster = sorted(
        (
            each
            for each in strategies
            if each.fits
            and not each.accuracy.is_kept
            and each.prediction.run_hours * (1 + ALIKE) < first.prediction.run_hours
        ),
        key=lambda each: each.prediction.run_hours,
    )
    lost = (each for each in faster if each.accuracy.change is not None)
    unknown = (each for each in faster if each.accuracy.change is None)
    for each in filter(None, (next(lost, None), next(unknown, None))):
        change = each.accuracy.change
        gain = first.prediction.run_hours / each.prediction.run_hours
        why = (
            "its AP was not measured with these settings (python -m yolo.bench.accuracy measures it)"
            if change is None
            else f"lost {-change:.3f} AP on {measured.setup.base}, more than the {LOSS_BOUND} allowed"
        )
        yield f"{each.label} would be {gain:.2f} times as fast, but {why}"


def _one_bit_inequality(strategies: Sequence[Ranked]) -> Iterator[str]:
    """When 1 bit per element pays: the condition of the 1-bit Adam paper, with its numbers."""
    costs = {each.label: each.prediction for each in reversed(strategies)}
    if "1-bit Adam" in costs and "overlapped" in costs:
        waiting = costs["overlapped"].exposed_seconds * 1e3
        packing = costs["1-bit Adam"].codec_seconds * 1e3
        sending = costs["1-bit Adam"].exposed_seconds * 1e3
        pays = "pays" if waiting > packing + sending else "does not pay"
        yield (
            f"1 bit {pays}: overlapped waits {waiting:.1f} ms, against {packing:.1f} ms of packing and {sending:.1f} ms of "
            "sending bits"
        )
