"""Local work of a rank in a step: computing, and what a strategy adds before anything is sent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from yolo.planner.cost.model_stats import Network, yolov5
from yolo.planner.interpolation import Averaged, crowding_of, interpolate, nearest_in_ranks
from yolo.planner.profile import ClusterProfile, Measurement
from yolo.recipe.schema.optimizer import ONE_BIT, ZeroOneAdamSection
from yolo.recipe.schema.recipe import Recipe

BACKWARD = 2.0
"""Operations of backward per operation of forward: gradients of the inputs and of the weights."""
ADAM_PASSES = 9
"""Passes over memory per parameter vector: clipping reads gradients twice, Adam reads 4 vectors and writes 3."""
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
"""Vectors of 4 bytes per parameter that a strategy reads and writes besides, counted in the code that does it."""
HOOKS = {"ddp": 0, "stage1": 1, "stage2": 1, "stage3": 4, "overlapped": 1, "overlapped.bf16": 1}
"""Python hooks of a strategy per tensor per micro step. These strategies work within backward, by hooks."""
LOW_RANK_LAUNCHES = 40
"""Kernels that PowerSGD starts for all matrices of one shape: two products, and orthogonalization column by column."""


def strategy_key(recipe: Recipe) -> str:
    """Key in a profile's `local_seconds` for the local work that a recipe's strategy adds."""
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
    profile: ClusterProfile, recipe: Recipe, network: Network, key: str | None = None
) -> LocalWork:
    """Average the measurements at the nearest numbers of ranks, or use the formulae if there are none.

    key: of a strategy that no recipe names.
    """
    key = key or strategy_key(recipe)
    if not profile.measured:
        return _by_formula(profile, recipe, network, key)
    near = nearest_in_ranks(profile)
    return LocalWork.mean([(w, _scaled(profile, each, recipe, network, key)) for w, each in near])


def _by_formula(profile: ClusterProfile, recipe: Recipe, network: Network, key: str) -> LocalWork:
    accelerator = profile.accelerator
    operations = network.forward_flops * recipe.train.micro_batch
    forward = operations / (accelerator.sustained_tflops * 1e12)
    if recipe.precision.dtype == "fp32":
        forward *= accelerator.fp32_factor
    vector_pass = network.fp32_bytes / (accelerator.memory_gbps * 1e9)
    hooks = HOOKS.get(key, 0) * len(network.tensors) * accelerator.hook_us * 1e-6
    if key == "powersgd":
        shapes = {tensor.shape for tensor in network.tensors if len(tensor.shape) > 1}
        hooks += LOW_RANK_LAUNCHES * len(shapes) * accelerator.launch_us * 1e-6
    # A layer's backward takes time in proportion to what its forward wrote: it moves memory more than it computes.
    done = list(accumulate(tensor.output_elements for tensor in network.ready()))
    return LocalWork(
        forward_seconds=forward,
        backward_seconds=forward * BACKWARD,
        update_seconds=ADAM_PASSES * vector_pass,
        extra_seconds=PASSES[key] * vector_pass + hooks,
        is_extra_in_backward=key in HOOKS,
        jitter=profile.jitter,
        ready=tuple(each / done[-1] for each in done),
        data_images_per_second=None,
    )


def _scaled(
    profile: ClusterProfile, measured: Measurement, recipe: Recipe, network: Network, key: str
) -> LocalWork:
    """Scale one measurement to the recipe's work, and to the ranks that share cores."""
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
        is_extra_in_backward=key in HOOKS,
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
