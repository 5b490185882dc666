"""What a rank does by itself in a step: computing, and what a strategy adds before anything is sent."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from yolo.planner.cost.model_stats import Network, yolov5
from yolo.planner.interpolation import crowding_of, nearest_in_ranks
from yolo.planner.profile import ClusterProfile, Measurement
from yolo.recipe.schema.optimizer import ONE_BIT, ZeroOneAdamSection
from yolo.recipe.schema.recipe import Recipe

BACKWARD = 2.0
"""Times the forward pass's operations: gradients of the inputs and of the weights."""
ADAM_PASSES = 9
"""Over memory, of one vector as long as the network: clipping reads gradients twice, Adam reads 4 vectors and writes 3."""
PASSES = {
    "stage0": 4,
    "stage0.bf16": 5,
    "overlapped": 3,
    "overlapped.bf16": 5,
    "ddp": 2,
    "powersgd": 10,
    "OneBitAdam": 22,
    "ZeroOneAdam": 22,
    "ZeroOneAdam.local": 10,
    "OneBitLamb": 28,
    "local_steps": 10,
    "local_steps.one_bit": 24,
    "stage1": 4,
    "stage2": 4,
    "stage3": 6,
}
"""What a strategy reads and writes beside that, counted in the code that does it, as vectors of 4 bytes an element."""
HOOKS = {"ddp": 0, "stage1": 1, "stage2": 1, "stage3": 4, "overlapped": 1, "overlapped.bf16": 1}
"""Python hooks of a strategy on each tensor, in a micro step."""
LOW_RANK_LAUNCHES = 40
"""Kernels that PowerSGD starts for all matrices of one shape: two products, and columns made orthogonal one by one."""
IN_BACKWARD = frozenset(HOOKS)
"""Strategies whose own work is done within backward, by hooks."""


def strategy_key(recipe: Recipe) -> str:
    """Under which name profiles hold what a recipe's strategy adds to a rank's own work."""
    communication = recipe.communication
    if isinstance(recipe.optimizer, ZeroOneAdamSection) and recipe.optimizer.local_step_clipper > 1:
        return "ZeroOneAdam.local"
    if recipe.optimizer.type in ONE_BIT:
        return recipe.optimizer.type
    if communication.sync_every > 1:
        return "local_steps.one_bit" if communication.outer_one_bit else "local_steps"
    sixteen = ".bf16" if communication.data_type != "fp32" else ""
    if communication.reducer == "deepspeed":
        stage = recipe.zero.stage
        return f"stage0{sixteen}" if stage == 0 else f"stage{stage}"
    return communication.reducer + (sixteen if communication.reducer == "overlapped" else "")


@dataclass(frozen=True, slots=True)
class LocalWork:
    """A rank's own work; seconds are of a micro step, but for `update_seconds` and `extra_seconds`, of a step."""

    forward_seconds: float
    backward_seconds: float
    update_seconds: float
    extra_seconds: float
    """Of the strategy: hooks, copies, packing."""
    is_extra_in_backward: bool
    """Whether it is known to be computing within backward; else it is taken to come after."""
    jitter: float
    """Standard deviation of a rank's step, as a share of it."""
    ready: tuple[float, ...]
    """When each gradient is complete, in the order of completion, as a share of backward."""
    data_images_per_second: float | None
    """What the loader of a rank delivers, where that was measured."""


def local_work(
    profile: ClusterProfile, recipe: Recipe, network: Network, key: str | None = None
) -> LocalWork:
    """From the nearest measurements, or by formula where there are none; `key` for a strategy that no recipe names."""
    key = key or strategy_key(recipe)
    if profile.measured:
        return _as_measured(profile, recipe, network, key)
    return _by_formula(profile, recipe, network, key)


def _by_formula(profile: ClusterProfile, recipe: Recipe, network: Network, key: str) -> LocalWork:
    accelerator = profile.accelerator
    operations = network.forward_flops * recipe.train.micro_batch
    forward = operations / (accelerator.sustained_tflops * 1e12)
    if recipe.precision.dtype == "fp32":
        forward *= accelerator.fp32_factor
    vector_pass = network.elements * 4 / (accelerator.memory_gbps * 1e9)
    hooks = HOOKS.get(key, 0) * len(network.tensors) * accelerator.hook_us * 1e-6
    if key == "powersgd":
        shapes = {tensor.shape for tensor in network.tensors if len(tensor.shape) > 1}
        hooks += LOW_RANK_LAUNCHES * len(shapes) * accelerator.launch_us * 1e-6
    return LocalWork(
        forward_seconds=forward,
        backward_seconds=forward * BACKWARD,
        update_seconds=ADAM_PASSES * vector_pass,
        extra_seconds=PASSES[key] * vector_pass + hooks,
        is_extra_in_backward=key in IN_BACKWARD,
        jitter=profile.jitter,
        ready=_ready_by_formula(network),
        data_images_per_second=None,
    )


def _ready_by_formula(network: Network) -> tuple[float, ...]:
    """A layer's backward takes time in proportion to what its forward wrote: it moves memory more than it computes."""
    done = list(accumulate(tensor.output_elements for tensor in network.ready()))
    return tuple(each / done[-1] for each in done)


def _as_measured(profile: ClusterProfile, recipe: Recipe, network: Network, key: str) -> LocalWork:
    """The mean of the measurements at the nearest numbers of ranks, scaled to the recipe's work and to the crowding."""
    near = nearest_in_ranks(profile)
    parts = [(weight, _scaled(profile, each, recipe, network, key)) for weight, each in near]

    def mean(of: Callable[[LocalWork], float]) -> float:
        return sum(weight * of(part) for weight, part in parts)

    has_loaders = all(part.data_images_per_second for _, part in parts)
    return LocalWork(
        forward_seconds=mean(lambda part: part.forward_seconds),
        backward_seconds=mean(lambda part: part.backward_seconds),
        update_seconds=mean(lambda part: part.update_seconds),
        extra_seconds=mean(lambda part: part.extra_seconds),
        is_extra_in_backward=key in IN_BACKWARD,
        jitter=mean(lambda part: part.jitter),
        ready=tuple(
            mean(lambda part, index=index: part.ready[index])  # type: ignore[misc]
            for index in range(len(network.tensors))
        ),
        data_images_per_second=mean(lambda part: part.data_images_per_second or 0.0)
        if has_loaders
        else None,
    )


def _scaled(
    profile: ClusterProfile, measured: Measurement, recipe: Recipe, network: Network, key: str
) -> LocalWork:
    work = measured.workload
    then = yolov5(work.variant, work.classes, work.image_size)
    crowding = crowding_of(profile, profile.ranks) / crowding_of(profile, measured.ranks)
    computing = network.forward_flops * recipe.train.micro_batch
    computing *= crowding / (then.forward_flops * work.micro_batch)
    if (recipe.precision.dtype == "fp32") != (work.dtype == "fp32"):
        factor = profile.accelerator.fp32_factor
        computing *= factor if recipe.precision.dtype == "fp32" else 1 / factor
    vectors = crowding * network.elements / then.elements
    extra = measured.local_seconds.get(key)
    if extra is None:
        extra = _by_formula(profile, recipe, network, key).extra_seconds / vectors
    return LocalWork(
        forward_seconds=measured.forward_seconds * computing,
        backward_seconds=measured.backward_seconds * computing,
        update_seconds=measured.update_seconds * vectors,
        extra_seconds=max(0.0, extra) * vectors,
        is_extra_in_backward=key in IN_BACKWARD,
        jitter=measured.jitter,
        ready=_ready_as_measured(network, measured.ready),
        data_images_per_second=measured.loader_images_per_second,
    )


def _ready_as_measured(network: Network, curve: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """The measured curve (share of time, share of gradients) at each gradient's completion."""
    gradients = [share for _, share in curve]
    times = [time for time, _ in curve]
    done = accumulate(tensor.elements for tensor in network.ready())
    shares = [each / network.elements for each in done]
    found = []
    for share in shares:
        above = min(bisect_left(gradients, share), len(curve) - 1)
        below = max(above - 1, 0)
        span = gradients[above] - gradients[below]
        weight = (share - gradients[below]) / span if span > 0 else 1.0
        found.append(times[below] + weight * (times[above] - times[below]))
    assert math.isclose(shares[-1], 1.0)
    return tuple(found)
