"""What a rank's memory holds at its fullest, by part: from the sizes of tensors, and activations as measured."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

from yolo.planner.cost.message_sizes import one_bit_elements
from yolo.planner.cost.model_stats import GROUPS, Network
from yolo.recipe.schema.optimizer import ONE_BIT, SGDSection
from yolo.recipe.schema.recipe import Recipe

FP32 = 4
"""Bytes: parameters, gradients and the optimizer's state are kept in fp32; autocast computes in 16 bits."""
CONVOLUTION_WORKSPACE = 0.1
"""Of the activations: gradients of the layer at work, and what convolutions need beside."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a rank at its fullest."""

    parameters: float
    gradients: float
    optimizer: float
    exchange: float
    """Buckets, flattened gradients, error feedback."""
    activations: float
    """What backward needs of forward, and the workspace of the layer at work; the images too."""

    @property
    def total(self) -> float:
        """All parts."""
        return sum(getattr(self, each.name) for each in fields(self))


def memory_of(recipe: Recipe, network: Network, ranks: int) -> Memory:
    """Of a recipe whose `auto` values are resolved."""
    whole = float(FP32 * network.elements)
    stage = recipe.zero.stage if ranks > 1 else 0
    is_16_bit = recipe.precision.dtype != "fp32"
    kept = network.kept_bytes["bf16" if is_16_bit else "fp32"] * recipe.train.micro_batch
    images = FP32 * 3 * recipe.model.image_size**2 * recipe.train.micro_batch
    workspace = CONVOLUTION_WORKSPACE * kept
    casts = (
        whole / 2 if is_16_bit else 0.0
    )  # autocast keeps a 16-bit copy of the weights until the step is over
    parameters, gradients, optimizer = _sharded(recipe, network, stage, ranks)
    return Memory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        exchange=_exchange(recipe, network, whole, stage, ranks),
        activations=kept + images + workspace + casts,
    )


def _sharded(
    recipe: Recipe, network: Network, stage: int, ranks: int
) -> tuple[float, float, float]:
    """Parameters, gradients and optimizer: from stage 1 on with a master copy of the rank's own part, also in fp32.

    Sharded gradients leave their parameters as they are reduced, at stage 1 too.
    """
    whole = float(FP32 * network.elements)
    states = _states(recipe) * whole
    if recipe.optimizer.type in ONE_BIT:
        vectors = 5 if recipe.optimizer.type == "ZeroOneAdam" else 4
        return whole, whole, float(vectors * FP32 * one_bit_elements(network, ranks))
    if stage == 0:
        return whole, whole, states
    part = whole / ranks
    optimizer = 0.0 if recipe.zero.offload_optimizer != "none" else states / ranks + part
    if stage < 3:
        return whole, _reduced_gradients(network, ranks), optimizer
    return part + _kept_whole(recipe, network), part, optimizer


def _reduced_gradients(network: Network, ranks: int) -> float:
    """Of the rank that keeps most: where its part of a group begins or ends within a tensor, it keeps the whole one."""
    ends = {
        group: list(accumulate(t.elements for t in network.tensors if t.group == group))
        for group in GROUPS
    }
    return float(
        FP32 * max(sum(_touched(e, rank, ranks) for e in ends.values()) for rank in range(ranks))
    )


def _touched(ends: Sequence[int], rank: int, ranks: int) -> int:
    """Elements of the tensors that a rank's part reaches into; `ends` are where tensors end in the group."""
    part = math.ceil(ends[-1] / ranks)
    first, last = rank * part, min((rank + 1) * part, ends[-1])
    if first >= last:
        return 0
    start = bisect_right(ends, first)
    return ends[bisect_left(ends, last)] - (ends[start - 1] if start else 0)


def _kept_whole(recipe: Recipe, network: Network) -> float:
    """Of small parameters, which stage 3 keeps beside the shards."""
    threshold = recipe.zero.stage3_param_persistence_threshold
    sizes = (tensor.elements for tensor in network.tensors)
    return float(FP32 * sum(size for size in sizes if size < threshold))


def _states(recipe: Recipe) -> float:
    """Vectors of the network's length that the optimizer keeps."""
    if isinstance(recipe.optimizer, SGDSection):
        return 1.0 if recipe.optimizer.momentum else 0.0
    return 2.0


def _exchange(recipe: Recipe, network: Network, whole: float, stage: int, ranks: int) -> float:
    if ranks == 1:
        return 0.0
    communication = recipe.communication
    padded = float(FP32 * one_bit_elements(network, ranks))
    if recipe.optimizer.type in ONE_BIT:
        # The flat gradient, both error feedbacks and what is unpacked; 0/1 Adam also keeps the weights ranks parted at.
        anchor = whole if recipe.optimizer.type == "ZeroOneAdam" else 0.0
        return padded * (3 + 1 / ranks) + anchor
    if communication.sync_every > 1:
        vectors = 3.0  # anchor, velocity, movement
        return vectors * whole + (
            padded * (2 + 1 / ranks) if communication.outer_one_bit else whole
        )
    wire = 0.0 if communication.data_type == "fp32" else whole / 2
    if stage > 0:
        buffers = 2 if recipe.zero.overlap_comm is True and recipe.zero.contiguous_gradients else 1
        gathered = whole - _kept_whole(recipe, network) if stage == 3 else 0.0
        return gathered + FP32 * min(recipe.zero.reduce_bucket_size, network.elements) * buffers
    if communication.reducer == "powersgd":
        return 3 * whole  # the bucket, error feedback, the approximation
    if communication.reducer == "overlapped":
        return wire  # gradients live in the buckets themselves
    return whole + wire  # DeepSpeed flattens all gradients for one all-reduce


def images_that_fit(memory: Memory, limit_bytes: float, micro_batch: int) -> int:
    """How many images a micro step may have so that all parts fit, activations growing with the images."""
    each = memory.activations / micro_batch
    return max(0, math.floor((limit_bytes - memory.total + memory.activations) / each))
