"""Predict what a recipe costs on a cluster: seconds, bytes, memory, hours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate
from statistics import NormalDist

from yolo.planner.cost.collectives import Cost, collective_cost, sent_bytes, wire_bytes
from yolo.planner.cost.compute import LocalCost, LocalWork, local_work
from yolo.planner.cost.memory import Memory, memory_of
from yolo.planner.cost.message_sizes import PlanContext
from yolo.planner.cost.model_stats import yolov5
from yolo.planner.cost.step_events import Phase, ddp_events
from yolo.planner.cost.strategies import DDP, strategy_of
from yolo.planner.cost.timeline import CommEvent, Event, StepTime, Timeline
from yolo.planner.interpolation import Averaged
from yolo.planner.profile import ClusterProfile
from yolo.recipe.schema.recipe import Recipe

MEMORY_HEADROOM = 0.92
"""Usable share of a GPU's memory: the rest is the driver's, and gaps between tensors."""


@dataclass(frozen=True, slots=True)
class Data:
    """What a run trains on."""

    images: int
    classes: int


@dataclass(frozen=True, slots=True)
class Step(Averaged):
    """What one optimizer step costs, averaged over a phase."""

    step_seconds: float
    compute_seconds: float
    """Forward, backward and the optimizer's step."""
    codec_seconds: float
    """The strategy's own work: hooks, copies, packing."""
    exposed_seconds: float
    """What communication adds to that: waiting for the network, and slower computing beside it."""
    straggler_seconds: float
    """Waiting for the slowest rank."""
    data_wait_seconds: float
    sent_bytes: float
    """Payload that a rank sends: exact."""
    wire_bytes: float
    """The same with headers and acknowledgements, as measured or usual."""
    collectives: float


@dataclass(frozen=True, slots=True)
class Prediction(Step):
    """A step of the phase that a run stays in, and the full run."""

    images_per_second: float
    """Over all ranks."""
    efficiency: float
    """As a share of the same ranks without waiting or packing."""
    memory: Memory
    phases: tuple[tuple[float, Step], ...]
    """In their order, each with its share of the run's steps."""
    run_steps: int
    run_hours: float
    """Training steps of all phases, without evaluations."""
    gpu_hours: float

    def fits(self, profile: ClusterProfile) -> bool:
        """Whether a rank's memory is enough."""
        return self.memory.total <= MEMORY_HEADROOM * profile.accelerator.memory_gb * 1e9

    def at(self, step: int) -> Step:
        """The phase of optimizer step `step` of the run, counted from 1."""
        ends = accumulate(share for share, _ in self.phases)
        for end, (_, phase) in zip(ends, self.phases, strict=True):
            if step <= end * self.run_steps:
                return phase
        return self.phases[-1][1]


def predict(profile: ClusterProfile, recipe: Recipe, data: Data) -> Prediction:
    """Predict a recipe whose `auto` values are resolved for the profile's ranks."""
    strategy = strategy_of(recipe)
    context = _context(profile, recipe, data, strategy)
    warmup_share = _warmup_share(recipe, context.steps)
    return predict_run(profile, context, strategy.phases_of(context, warmup_share))


def predict_ddp(
    profile: ClusterProfile, recipe: Recipe, data: Data, bucket_mb: float = 25.0
) -> Prediction:
    """Predict torch's DistributedDataParallel with the recipe's work, for comparison."""
    context = _context(profile, recipe, data, DDP)
    events = ddp_events(context, round(bucket_mb * 2**20))
    return predict_run(profile, context, [Phase(1.0, events)])


def _context(
    profile: ClusterProfile, recipe: Recipe, data: Data, strategy: LocalCost
) -> PlanContext:
    network = yolov5(recipe.model.variant, data.classes, recipe.model.image_size)
    work = local_work(profile, recipe, network, strategy)
    steps = recipe.train.epochs * max(1, -(-data.images // recipe.train.global_batch))
    return PlanContext(recipe, network, work, profile.ranks, profile.backend == "nccl", steps)


def _warmup_share(recipe: Recipe, steps: int) -> float:
    """As in yolo.training.loop.lr_schedule."""
    train = recipe.train
    if train.warmup_epochs == 0:
        return 0.0
    requested = max(round(train.warmup_epochs * steps / train.epochs), train.warmup_min_steps)
    return min(requested, steps // 2) / max(1, steps)


def predict_run(profile: ClusterProfile, context: PlanContext, run: Sequence[Phase]) -> Prediction:
    """Predict a run of some phases, for any network."""
    recipe, work = context.recipe, context.work
    costs = tuple((phase.share, _step(profile, context, phase)) for phase in run)
    steady = costs[-1][1]
    exchange = strategy_of(recipe).buffers_of(recipe, context.network, profile.ranks)
    hours = Step.mean(costs).step_seconds * context.steps / 3600
    return Prediction(
        **asdict(steady),
        images_per_second=recipe.train.global_batch / steady.step_seconds,
        efficiency=_local_seconds(recipe, work) / steady.step_seconds,
        memory=memory_of(recipe, context.network, profile.ranks, exchange),
        phases=costs,
        run_steps=context.steps,
        run_hours=hours,
        gpu_hours=hours * profile.ranks,
    )


def step_time(profile: ClusterProfile, recipe: Recipe, data: Data) -> StepTime | None:
    """The timeline of a step on ranks that are equally fast, in the phase that a run stays in.

    None for local steps, of which no single one shows the cost.
    """
    strategy = strategy_of(recipe)
    context = _context(profile, recipe, data, strategy)
    phase = strategy.phases_of(context, _warmup_share(recipe, context.steps))[-1]
    return _timeline_of(profile, phase) if phase.period == 1 else None


def _timeline_of(profile: ClusterProfile, phase: Phase) -> StepTime:
    @cache
    def cost_of(event: Event) -> Cost:
        if isinstance(event, CommEvent):
            group = profile.group(event.ranks)
            return collective_cost(group, event.kind, event.payload_bytes, event.messages)
        return Cost(0.0)

    timeline = Timeline(profile.accelerator.overlap_slowdown)
    return timeline.play((event, cost_of(event)) for event in phase.events)


def _step(profile: ClusterProfile, context: PlanContext, phase: Phase) -> Step:
    work, period = context.work, phase.period
    comm_events = [event for event in phase.events if isinstance(event, CommEvent)]

    def mean_bytes(count: Callable[[ClusterProfile, str, float, float], float]) -> float:
        sent = (
            count(profile.group(event.ranks), event.kind, event.payload_bytes, event.messages)
            for event in comm_events
        )
        return sum(sent) / period if profile.ranks > 1 else 0.0

    time = _timeline_of(profile, phase)
    seconds = time.seconds / period  # on ranks that are equally fast
    computing = {part: total / period for part, total in time.computing.items()}
    local = sum(computing.values())
    late = work.jitter * local / math.sqrt(period / phase.syncs) * expected_maximum(profile.ranks)
    wait = _data_wait(context.recipe, work, seconds + late)
    hooks = work.extra_seconds if work.is_extra_in_backward and profile.ranks > 1 else 0.0
    codec = computing.pop("codec", 0.0)
    return Step(
        step_seconds=seconds + late + wait,
        compute_seconds=sum(computing.values()) - hooks,
        codec_seconds=codec + hooks,
        exposed_seconds=seconds - local,
        straggler_seconds=late,
        data_wait_seconds=wait,
        sent_bytes=mean_bytes(sent_bytes),
        wire_bytes=mean_bytes(wire_bytes),
        collectives=len(comm_events) / period,
    )


def expected_maximum(ranks: int) -> float:
    """Expected maximum of standard normal numbers, one per rank (Blom's approximation): the slowest rank's deviation."""
    if ranks == 1:
        return 0.0
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def _local_seconds(recipe: Recipe, work: LocalWork) -> float:
    micro_steps = recipe.train.gradient_accumulation_steps
    return micro_steps * (work.forward_seconds + work.backward_seconds) + work.update_seconds


def _data_wait(recipe: Recipe, work: LocalWork, step_seconds: float) -> float:
    if work.data_images_per_second is None:
        return 0.0
    micro_steps, images = recipe.train.gradient_accumulation_steps, recipe.train.micro_batch
    loading = micro_steps * images / work.data_images_per_second
    has_workers = recipe.data.workers > 0  # otherwise the rank itself loads before it computes
    return max(0.0, loading - step_seconds) if has_workers else loading
