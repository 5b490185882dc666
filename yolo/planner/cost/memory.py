"""Peak memory of a rank by part: from the sizes of tensors, and activations as measured."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

from yolo.planner.cost.halos import halo_bytes
from yolo.planner.cost.message_sizes import one_bit_elements
from yolo.planner.cost.model_stats import GROUPS, Network
from yolo.recipe.schema.optimizer import ONE_BIT, SGDSection
from yolo.recipe.schema.recipe import Recipe

FP32 = 4
"""Bytes: parameters, gradients and the optimizer's state are kept in fp32; autocast computes in 16 bits."""
CONVOLUTION_WORKSPACE = 0.1
"""As a share of the activations: gradients of the layer at work, and workspace of its convolutions."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak bytes of a rank."""

    parameters: float
    gradients: float
    optimizer: float
    exchange: float
    """Buckets, flattened gradients, error feedback."""
    activations: float
    """What backward needs of forward, the workspace of the layer at work, and the images."""

    @property
    def total(self) -> float:
        """All parts."""
        return sum(getattr(self, each.name) for each in fields(self))


def memory_of(recipe: Recipe, network: Network, ranks: int, exchange: float) -> Memory:
    """Peak memory for a recipe whose `auto` values are resolved; `exchange`: bytes of its strategy's buffers."""
    stage = recipe.zero.stage if ranks > 1 else 0
    is_16_bit = recipe.precision.dtype != "fp32"
    columns = recipe.sharding.columns
    kept = network.kept_bytes["bf16" if is_16_bit else "fp32"] * recipe.train.micro_batch
    kept = kept / columns + halo_bytes(recipe)
    images = FP32 * 3.0 * recipe.model.image_size**2 * recipe.train.micro_batch
    if columns > 1:
        images += images / columns  # the full images, and the rank's stripe of them
    workspace = CONVOLUTION_WORKSPACE * kept
    # Autocast keeps a 16-bit copy of the weights until the step is over.
    casts = network.fp32_bytes / 2 if is_16_bit else 0.0
    return Memory(
        *_model_states(recipe, network, stage, ranks),
        exchange=exchange,
        activations=kept + images + workspace + casts,
    )


def _model_states(
    recipe: Recipe, network: Network, stage: int, ranks: int
) -> tuple[float, float, float]:
    """Parameters, gradients and optimizer; from stage 1 on with an fp32 master copy of the rank's shard.

    Sharded gradients are freed as they are reduced, at stage 1 too.
    """
    full = network.fp32_bytes
    if recipe.optimizer.type in ONE_BIT:
        vectors = 5 if recipe.optimizer.type == "ZeroOneAdam" else 4
        return full, full, float(vectors * FP32 * one_bit_elements(network, ranks))
    vectors = 2
    if isinstance(recipe.optimizer, SGDSection):
        vectors = 1 if recipe.optimizer.momentum else 0
    states = vectors * full
    if stage == 0:
        return full, full, states
    shard = full / ranks
    optimizer = 0.0 if recipe.zero.offload_optimizer != "none" else states / ranks + shard
    if stage < 3:
        return full, _reduced_gradients(network, ranks), optimizer
    return shard + persistent_bytes(recipe, network), shard, optimizer


def _reduced_gradients(network: Network, ranks: int) -> float:
    """On the rank that keeps most. A tensor at the edge of its shard of a group is kept in full."""
    ends = [
        list(accumulate(t.elements for t in network.tensors if t.group == group))
        for group in GROUPS
    ]
    return float(FP32 * max(sum(_touched(e, rank, ranks) for e in ends) for rank in range(ranks)))


def _touched(ends: Sequence[int], rank: int, ranks: int) -> int:
    """Elements of the tensors that a rank's shard reaches into; `ends` are the tensors' ends within the group."""
    part = math.ceil(ends[-1] / ranks)
    first, last = rank * part, min((rank + 1) * part, ends[-1])
    if first >= last:
        return 0
    start = bisect_right(ends, first)
    return ends[bisect_left(ends, last)] - (ends[start - 1] if start else 0)


def persistent_bytes(recipe: Recipe, network: Network) -> float:
    """Small parameters, which stage 3 keeps in full beside the shards."""
    threshold = recipe.zero.stage3_param_persistence_threshold
    sizes = (tensor.elements for tensor in network.tensors)
    return float(FP32 * sum(size for size in sizes if size < threshold))
