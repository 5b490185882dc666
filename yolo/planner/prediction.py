"""What a recipe costs on a cluster: seconds, bytes, memory, hours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from yolo.planner.collectives import (
    Cost,
    collective_cost,
    sent_bytes,
    tiny_seconds,
    wire_bytes,
)
from yolo.planner.local import LocalWork, local_work
from yolo.planner.measurements import nearest_in_ranks
from yolo.planner.memory import Memory, memory_of
from yolo.planner.network import yolov5
from yolo.planner.profile import ClusterProfile
from yolo.planner.schedule import Phase, Situation, ddp_events, phases
from yolo.planner.timeline import Event, Exchange, StepTime, Timeline
from yolo.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class Data:
    """What a run trains on."""

    images: int
    classes: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of a step of the phase that a run stays in, and of the run as a whole."""

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
    images_per_second: float
    """Over all ranks."""
    efficiency: float
    """Of that many ranks that neither wait nor pack."""
    sent_bytes: float
    """Of payload that a rank sends in a step: exact."""
    wire_bytes: float
    """The same with headers and acknowledgements, as many as were measured or are usual."""
    collectives: float
    """In a step."""
    memory: Memory
    run_steps: int
    run_hours: float
    """Of the training steps of all phases; evaluations are not in it."""
    gpu_hours: float


def steps_of(recipe: Recipe, data: Data) -> int:
    """Optimizer steps of the whole run."""
    return recipe.train.epochs * max(1, -(-data.images // recipe.train.global_batch))


def predict(profile: ClusterProfile, recipe: Recipe, data: Data) -> Prediction:
    """For a recipe whose `auto` values are resolved for the profile's ranks."""
    network = yolov5(recipe.model.variant, data.classes, recipe.model.image_size)
    work = local_work(profile, recipe, network)
    steps = steps_of(recipe, data)
    situation = Situation(recipe, network, work, profile.ranks, profile.backend == "nccl", steps)
    return predict_run(profile, situation, phases(situation, _warmup_share(recipe, steps)))


def predict_ddp(
    profile: ClusterProfile, recipe: Recipe, data: Data, bucket_mb: float = 25.0
) -> Prediction:
    """torch's DistributedDataParallel with the recipe's work, for comparison."""
    network = yolov5(recipe.model.variant, data.classes, recipe.model.image_size)
    work = local_work(profile, recipe, network, key="ddp")
    steps = steps_of(recipe, data)
    situation = Situation(recipe, network, work, profile.ranks, profile.backend == "nccl", steps)
    events = ddp_events(situation, round(bucket_mb * 2**20))
    return predict_run(profile, situation, [Phase("whole gradients", 1.0, events)])


def _warmup_share(recipe: Recipe, steps: int) -> float:
    """As yolo.training.schedule has it."""
    train = recipe.train
    if train.warmup_epochs == 0:
        return 0.0
    asked = max(round(train.warmup_epochs * steps / train.epochs), train.warmup_min_steps)
    return min(asked, steps // 2) / max(1, steps)


def predict_run(profile: ClusterProfile, situation: Situation, run: Sequence[Phase]) -> Prediction:
    """A run of some phases, whatever network it trains."""
    recipe, network, work = situation.recipe, situation.network, situation.work
    steady = run[-1]
    times = [_phase_seconds(profile, situation, phase) for phase in run]
    time, straggler = times[-1]
    step = time.seconds + straggler
    wait = _data_wait(recipe, work, step)
    mean_step = sum(
        phase.share * (of_phase.seconds + late + _data_wait(recipe, work, of_phase.seconds + late))
        for phase, (of_phase, late) in zip(run, times, strict=True)
    )
    computing = sum(s for part, s in time.computing.items() if part != "codec")
    hooks = work.extra_seconds if work.is_extra_in_backward and profile.ranks > 1 else 0.0
    alone = _alone_seconds(recipe, work)
    global_batch = recipe.train.global_batch
    seconds = step + wait
    return Prediction(
        step_seconds=seconds,
        compute_seconds=computing - hooks,
        codec_seconds=time.computing.get("codec", 0.0) + hooks,
        exposed_seconds=time.exposed_seconds,
        straggler_seconds=straggler,
        data_wait_seconds=wait,
        images_per_second=global_batch / seconds,
        efficiency=alone / seconds,
        sent_bytes=_bytes_of(profile, steady, sent_bytes),
        wire_bytes=_bytes_of(profile, steady, wire_bytes),
        collectives=sum(isinstance(e, Exchange) for e in steady.events) / steady.period,
        memory=memory_of(recipe, network, profile.ranks),
        run_steps=situation.steps,
        run_hours=mean_step * situation.steps / 3600,
        gpu_hours=mean_step * situation.steps / 3600 * profile.ranks,
    )


def _phase_seconds(
    profile: ClusterProfile, situation: Situation, phase: Phase
) -> tuple[StepTime, float]:
    """A step's time in the mean of a period, and the wait for the slowest rank beside it."""
    costs: dict[tuple[str, float], Cost] = {}
    # Measured strategies have waited for tiny collectives already, and with them for the slowest rank.
    spared = tiny_seconds(profile)
    ranks_heard = sum(weight * expected_maximum(m.ranks) for weight, m in nearest_in_ranks(profile))

    def cost_of(event: Event) -> Cost:
        if not isinstance(event, Exchange):
            return NO_COST
        key = event.kind, event.payload_bytes
        if key not in costs:
            cost = collective_cost(profile, *key)
            costs[key] = Cost(max(0.0, cost.seconds - spared), cost.core_share)
        return costs[key]

    timeline = Timeline(profile.accelerator.overlap_slowdown)
    whole = timeline.play((event, cost_of(event)) for event in phase.events)
    computing = {part: seconds / phase.period for part, seconds in whole.computing.items()}
    time = StepTime(whole.seconds / phase.period, computing)
    late = max(0.0, expected_maximum(profile.ranks) - ranks_heard)
    late *= situation.work.jitter * sum(computing.values())
    return time, late / math.sqrt(phase.period)


NO_COST = Cost(0.0)


def expected_maximum(ranks: int) -> float:
    """Of so many standard normal numbers (Blom's approximation): how far the slowest rank is from the mean."""
    if ranks == 1:
        return 0.0
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def _alone_seconds(recipe: Recipe, work: LocalWork) -> float:
    micro_steps = recipe.train.gradient_accumulation_steps
    assert micro_steps != "auto"
    return micro_steps * (work.forward_seconds + work.backward_seconds) + work.update_seconds


def _data_wait(recipe: Recipe, work: LocalWork, step_seconds: float) -> float:
    if work.data_images_per_second is None:
        return 0.0
    micro_steps, images = recipe.train.gradient_accumulation_steps, recipe.train.micro_batch
    assert micro_steps != "auto"
    assert images != "auto"
    return max(0.0, micro_steps * images / work.data_images_per_second - step_seconds)


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
        if isinstance(event, Exchange)
    )
    return sum(sent) / phase.period
