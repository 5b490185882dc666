"""What a recipe costs on a cluster: seconds, bytes, memory, hours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from statistics import NormalDist

from yolo.planner.cost.collectives import (
    Cost,
    collective_cost,
    sent_bytes,
    wire_bytes,
)
from yolo.planner.cost.compute import LocalWork, local_work
from yolo.planner.cost.context import PlanContext
from yolo.planner.cost.memory import Memory, memory_of
from yolo.planner.cost.model_stats import yolov5
from yolo.planner.cost.step_events import Phase, ddp_events, phases
from yolo.planner.cost.timeline import CommEvent, Event, StepTime, Timeline
from yolo.planner.profile import ClusterProfile
from yolo.recipe.schema.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Data:
    """What a run trains on."""

    images: int
    classes: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step costs, in the mean of a phase."""

    step_seconds: float
    compute_seconds: float
    """Forward, backward and the optimizer's step."""
    codec_seconds: float
    """The strategy's own work: hooks, copies, packing."""
    exposed_seconds: float
    """What communication adds to that: waiting for the network, and computing that goes slower beside it."""
    straggler_seconds: float
    """Waiting for the slowest rank."""
    data_wait_seconds: float
    sent_bytes: float
    """Of payload that a rank sends: exact."""
    wire_bytes: float
    """The same with headers and acknowledgements, as many as were measured or are usual."""
    collectives: float

    @staticmethod
    def mean(parts: Sequence[tuple[float, "Step"]]) -> "Step":
        """Of steps with the share that each has of all; shares add up to 1."""
        return Step(
            *(
                sum(share * getattr(step, each.name) for share, step in parts)
                for each in fields(Step)
            )
        )


@dataclass(frozen=True, slots=True)
class Prediction(Step):
    """A step of the phase that a run stays in, and the run as a whole."""

    images_per_second: float
    """Over all ranks."""
    efficiency: float
    """Of that many ranks that neither wait nor pack."""
    memory: Memory
    phases: tuple[tuple[float, Step], ...]
    """In their order, each with its share of the run's steps."""
    run_steps: int
    run_hours: float
    """Of the training steps of all phases; evaluations are not in it."""
    gpu_hours: float

    def at(self, step: int) -> Step:
        """The phase that optimizer step `step` of the run, counted from 1, falls into."""
        ends = accumulate(share for share, _ in self.phases)
        return next(
            (
                phase
                for end, (_, phase) in zip(ends, self.phases, strict=True)
                if step <= end * self.run_steps
            ),
            self.phases[-1][1],
        )


def steps_of(recipe: Recipe, data: Data) -> int:
    """Optimizer steps of the whole run."""
    return recipe.train.epochs * max(1, -(-data.images // recipe.train.global_batch))


def predict(profile: ClusterProfile, recipe: Recipe, data: Data) -> Prediction:
    """For a recipe whose `auto` values are resolved for the profile's ranks."""
    network = yolov5(recipe.model.variant, data.classes, recipe.model.image_size)
    work = local_work(profile, recipe, network)
    steps = steps_of(recipe, data)
    situation = PlanContext(recipe, network, work, profile.ranks, profile.backend == "nccl", steps)
    return predict_run(profile, situation, phases(situation, _warmup_share(recipe, steps)))


def predict_ddp(
    profile: ClusterProfile, recipe: Recipe, data: Data, bucket_mb: float = 25.0
) -> Prediction:
    """torch's DistributedDataParallel with the recipe's work, for comparison."""
    network = yolov5(recipe.model.variant, data.classes, recipe.model.image_size)
    work = local_work(profile, recipe, network, key="ddp")
    steps = steps_of(recipe, data)
    situation = PlanContext(recipe, network, work, profile.ranks, profile.backend == "nccl", steps)
    events = ddp_events(situation, round(bucket_mb * 2**20))
    return predict_run(profile, situation, [Phase("whole gradients", 1.0, events)])


def _warmup_share(recipe: Recipe, steps: int) -> float:
    """As yolo.training.loop.lr_schedule has it."""
    train = recipe.train
    if train.warmup_epochs == 0:
        return 0.0
    asked = max(round(train.warmup_epochs * steps / train.epochs), train.warmup_min_steps)
    return min(asked, steps // 2) / max(1, steps)


def predict_run(
    profile: ClusterProfile, situation: PlanContext, run: Sequence[Phase]
) -> Prediction:
    """A run of some phases, whatever network it trains."""
    recipe, work = situation.recipe, situation.work
    costs = tuple((phase.share, _step(profile, situation, phase)) for phase in run)
    steady = costs[-1][1]
    hours = Step.mean(costs).step_seconds * situation.steps / 3600
    return Prediction(
        **asdict(steady),
        images_per_second=recipe.train.global_batch / steady.step_seconds,
        efficiency=_alone_seconds(recipe, work) / steady.step_seconds,
        memory=memory_of(recipe, situation.network, profile.ranks),
        phases=costs,
        run_steps=situation.steps,
        run_hours=hours,
        gpu_hours=hours * profile.ranks,
    )


def _step(profile: ClusterProfile, situation: PlanContext, phase: Phase) -> Step:
    recipe, work = situation.recipe, situation.work
    time = _phase_seconds(profile, phase)
    per_deviation = work.jitter * sum(time.computing.values()) / math.sqrt(phase.period)
    late = per_deviation * expected_maximum(profile.ranks)
    hooks = work.extra_seconds if work.is_extra_in_backward and profile.ranks > 1 else 0.0
    computing = sum(s for part, s in time.computing.items() if part != "codec")
    wait = _data_wait(recipe, work, time.seconds + late)
    return Step(
        step_seconds=time.seconds + late + wait,
        compute_seconds=computing - hooks,
        codec_seconds=time.computing.get("codec", 0.0) + hooks,
        exposed_seconds=time.exposed_seconds,
        straggler_seconds=late,
        data_wait_seconds=wait,
        sent_bytes=_bytes_of(profile, phase, sent_bytes),
        wire_bytes=_bytes_of(profile, phase, wire_bytes),
        collectives=sum(isinstance(e, CommEvent) for e in phase.events) / phase.period,
    )


def _phase_seconds(profile: ClusterProfile, phase: Phase) -> StepTime:
    """A step's time in the mean of a period, on ranks that are equally fast."""
    costs: dict[tuple[str, float], Cost] = {}

    def cost_of(event: Event) -> Cost:
        if not isinstance(event, CommEvent):
            return NO_COST
        key = event.kind, event.payload_bytes
        if key not in costs:
            costs[key] = collective_cost(profile, *key)
        return costs[key]

    timeline = Timeline(profile.accelerator.overlap_slowdown)
    whole = timeline.play((event, cost_of(event)) for event in phase.events)
    computing = {part: seconds / phase.period for part, seconds in whole.computing.items()}
    return StepTime(whole.seconds / phase.period, computing)


NO_COST = Cost(0.0)


def expected_maximum(ranks: int) -> float:
    """Of so many standard normal numbers (Blom's approximation): how far the slowest rank is from the mean."""
    if ranks == 1:
        return 0.0
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def _alone_seconds(recipe: Recipe, work: LocalWork) -> float:
    micro_steps = recipe.train.gradient_accumulation_steps
    return micro_steps * (work.forward_seconds + work.backward_seconds) + work.update_seconds


def _data_wait(recipe: Recipe, work: LocalWork, step_seconds: float) -> float:
    if work.data_images_per_second is None:
        return 0.0
    micro_steps, images = recipe.train.gradient_accumulation_steps, recipe.train.micro_batch
    loading = micro_steps * images / work.data_images_per_second
    is_beside = recipe.data.workers > 0  # else the rank loads, and computes afterwards
    return max(0.0, loading - step_seconds) if is_beside else loading


def _bytes_of(
    profile: ClusterProfile,
    phase: Phase,
    count: Callable[[ClusterProfile, str, float], float],
) -> float:
    if profile.ranks == 1:
        return 0.0
    sent = (
        count(profile, event.kind, event.payload_bytes)
        for event in phase.events
        if isinstance(event, CommEvent)
    )
    return sum(sent) / phase.period
