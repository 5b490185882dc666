"""Local work of a rank in a step: computing, and what a strategy adds before anything is sent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from yolo.planner.cost.model_stats import Network, yolov5
from yolo.planner.interpolation import Averaged, crowding_of, interpolate, nearest_in_ranks
from yolo.planner.profile import ClusterProfile, Measurement
from yolo.recipe.schema.recipe import Recipe

BACKWARD = 2.0
"""Operations of backward per operation of forward: gradients of the inputs and of the weights."""
ADAM_PASSES = 9
"""Passes over memory per parameter vector: clipping reads gradients twice, Adam reads 4 vectors and writes 3."""


@dataclass(frozen=True, slots=True)
class LocalCost:
    """What a strategy adds to a rank's computing."""

    key: str
    """In a profile's `local_seconds`."""
    passes: int
    """Vectors of 4 bytes per parameter that it reads and writes besides, counted in the code that does it."""
    hooks: int | None = None
    """Python hooks per tensor per micro step; None if the strategy works after backward, not within."""
    launches: int = 0
    """Kernels for all matrices of one shape."""


@dataclass(frozen=True, slots=True)
class LocalWork(Averaged):
    """Local work of a rank: seconds per micro step, except `update_seconds` and `extra_seconds`: per step."""

    forward_seconds: float
    backward_seconds: float
    update_seconds: float
    extra_seconds: float
    """The strategy's own: hooks, copies, packing."""
    is_extra_in_backward: bool
    """Whether the strategy works within backward; otherwise after it."""
    jitter: float
    """Standard deviation of a rank's step, as a share of it."""
    ready: tuple[float, ...]
    """When each gradient is complete, in the order of completion, as a share of backward."""
    data_images_per_second: float | None
    """Images that a rank's loader delivers, if measured."""


def local_work(
    profile: ClusterProfile, recipe: Recipe, network: Network, strategy: LocalCost
) -> LocalWork:
    """Average the measurements at the nearest numbers of ranks, or use the formulae if there are none."""
    if not profile.measured:
        return _by_formula(profile, recipe, network, strategy)
    near = nearest_in_ranks(profile)
    return LocalWork.mean(
        [(w, _scaled(profile, each, recipe, network, strategy)) for w, each in near]
    )


def _by_formula(
    profile: ClusterProfile, recipe: Recipe, network: Network, strategy: LocalCost
) -> LocalWork:
    accelerator = profile.accelerator
    operations = _operations(recipe, network)
    forward = operations / (accelerator.sustained_tflops * 1e12)
    if recipe.precision.dtype == "fp32":
        forward *= accelerator.fp32_factor
    vector_pass = network.fp32_bytes / (accelerator.memory_gbps * 1e9)
    shapes = {tensor.shape for tensor in network.tensors if len(tensor.shape) > 1}
    calls = (strategy.hooks or 0) * len(network.tensors) * accelerator.hook_us * 1e-6
    calls += strategy.launches * len(shapes) * accelerator.launch_us * 1e-6
    # A layer's backward takes time in proportion to what its forward wrote: it moves memory more than it computes.
    done = list(accumulate(tensor.output_elements for tensor in network.ready()))
    return LocalWork(
        forward_seconds=forward,
        backward_seconds=forward * BACKWARD,
        update_seconds=ADAM_PASSES * vector_pass,
        extra_seconds=strategy.passes * vector_pass + calls,
        is_extra_in_backward=strategy.hooks is not None,
        jitter=profile.jitter,
        ready=tuple(each / done[-1] for each in done),
        data_images_per_second=None,
    )


def _operations(recipe: Recipe, network: Network) -> float:
    """Of a rank's forward pass: its stripe of each image. That narrow layers keep a GPU less busy is left out."""
    return network.forward_flops * recipe.train.micro_batch / recipe.sharding.columns


def _scaled(
    profile: ClusterProfile,
    measured: Measurement,
    recipe: Recipe,
    network: Network,
    strategy: LocalCost,
) -> LocalWork:
    """Scale one measurement to the recipe's work, and to the ranks that share cores."""
    work = measured.workload
    then = yolov5(work.variant, work.classes, work.image_size)
    crowding = crowding_of(profile, profile.ranks) / crowding_of(profile, measured.ranks)
    computing = _operations(recipe, network) * work.columns
    computing *= crowding / (then.forward_flops * work.micro_batch)
    if (recipe.precision.dtype == "fp32") != (work.dtype == "fp32"):
        factor = profile.accelerator.fp32_factor
        computing *= factor if recipe.precision.dtype == "fp32" else 1 / factor
    vectors = crowding * network.elements / then.elements
    extra = measured.local_seconds.get(strategy.key)
    if extra is None:
        extra = _by_formula(profile, recipe, network, strategy).extra_seconds / vectors
    return LocalWork(
        forward_seconds=measured.forward_seconds * computing,
        backward_seconds=measured.backward_seconds * computing,
        update_seconds=measured.update_seconds * vectors,
        extra_seconds=max(0.0, extra) * vectors,
        is_extra_in_backward=strategy.hooks is not None,
        jitter=measured.jitter,
        ready=_ready_as_measured(network, measured.ready),
        data_images_per_second=measured.loader_images_per_second,
    )


def _ready_as_measured(network: Network, curve: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Read the measured curve (share of time, share of gradients) at each gradient's completion."""
    times, gradients = zip(*curve, strict=True)
    shares = [e / network.elements for e in accumulate(t.elements for t in network.ready())]
    assert math.isclose(shares[-1], 1.0)
    return tuple(interpolate(gradients, times, share) for share in shares)
