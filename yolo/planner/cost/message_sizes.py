"""Messages of a step and their sizes in bytes, as DeepSpeed 0.19.8 and this repo's strategies cut them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from yolo.architecture import strides
from yolo.planner.cost.collectives import BF16
from yolo.planner.cost.compute import LocalWork
from yolo.planner.cost.model_stats import Network, Tensor
from yolo.planner.cost.timeline import CommEvent
from yolo.recipe.schema.optimizer import ONE_BIT
from yolo.recipe.schema.recipe import Recipe

SCALAR_BYTES = 4
"""A number that ranks agree on: a norm, a count of boxes."""
NAN_GATE_BYTES = 3 * SCALAR_BYTES
"""The anomaly guard's, per step: the loss, how many ranks want to stop, and the anomalies that ranks found locally."""
GUARD_SYNC_BYTES = 2 * SCALAR_BYTES
"""The same without the loss, after local steps."""
CLIPPING_NUMBERS = 17
"""The norm and the sketch of a rank's gradient, as in yolo.communication.optimizers.flat_optimizer."""
BLOCK = 512
"""Elements that share a scale in a 1-bit message, as in yolo.communication.compression.blocks."""


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What the events of a step depend on: a recipe and its network on some ranks, and how long computing takes there."""

    recipe: Recipe
    network: Network
    work: LocalWork
    ranks: int
    is_nccl: bool
    steps: int
    """Optimizer steps of the run."""

    @property
    def positives_bytes(self) -> int:
        """The training step's own sum: matched boxes per level."""
        return SCALAR_BYTES * len(strides(self.recipe.model.variant))

    @property
    def micro_steps(self) -> int:
        """Forward and backward passes per step."""
        return self.recipe.train.gradient_accumulation_steps


def gradient_event(kind: str, elements: int, data_type: str, is_waited: bool) -> CommEvent:
    """One message of gradients in fp32, bf16 or fp16."""
    if data_type == "fp32":
        return CommEvent(kind, 4 * elements, is_waited)
    return CommEvent(kind + BF16, 2 * elements, is_waited)


def dense_events(context: PlanContext) -> list[CommEvent]:
    """One all-reduce of all gradients, or of all weights' movements, in communication.data_type."""
    data_type = context.recipe.communication.data_type
    return [gradient_event("all_reduce", context.network.elements, data_type, is_waited=True)]


def one_bit_elements(network: Network, ranks: int) -> int:
    """Length of the padded vector: each tensor begins its own block, and ranks share the blocks evenly."""
    blocks = sum(math.ceil(tensor.elements / BLOCK) for tensor in network.tensors)
    return padded(blocks, ranks) * BLOCK


def one_bit_events(context: PlanContext) -> list[CommEvent]:
    """Signs and scales, to the rank that averages them and back; the optimizers also send a few numbers to each rank."""
    elements = one_bit_elements(context.network, context.ranks)
    message = elements // 8 + SCALAR_BYTES * (elements // BLOCK)
    is_momentum = context.recipe.optimizer.type in ONE_BIT
    extras = SCALAR_BYTES * CLIPPING_NUMBERS * context.ranks if is_momentum else 0
    return [
        CommEvent("all_to_all", message + extras, is_waited=True),
        CommEvent("all_gather", message, is_waited=True),
    ]


def low_rank_events(context: PlanContext) -> list[CommEvent]:
    """PowerSGD: vectors unchanged, then the two factors of all matrices (Vogels et al., 2019, algorithm 1)."""
    rank = context.recipe.communication.powersgd_rank
    left = right = plain = 0
    for tensor in context.network.tensors:
        rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
        kept = min(rows, columns, rank)
        if len(tensor.shape) == 1 or (rows + columns) * rank >= rows * columns:
            plain += tensor.elements
        else:
            left += rows * kept
            right += columns * kept
    sizes = filter(None, (plain, left, right))
    return [CommEvent("all_reduce", 4 * size, is_waited=True) for size in sizes]


def reversed_groups(network: Network, bucket_size: int) -> list[list[int]]:
    """Group tensors (indices) from the network's end, up to `bucket_size` elements each; a larger tensor is one group."""
    groups: list[list[int]] = []
    room = 0
    for index in reversed(range(len(network.tensors))):
        elements = network.tensors[index].elements
        if not groups or elements > room:
            groups.append([])
            room = bucket_size
        groups[-1].append(index)
        room -= elements
    return groups


def zero_buckets(
    tensors: Sequence[tuple[float, Tensor]], bucket_size: int
) -> list[tuple[float, int]]:
    """ZeRO's buckets: (share of backward, elements) each. A bucket is sent when the next gradient does not fit."""
    found: list[tuple[float, int]] = []
    elements = 0
    for at, tensor in tensors:
        if elements and elements + tensor.elements > bucket_size:
            found.append((at, elements))
            elements = 0
        elements += tensor.elements
    return [*found, (1.0, elements)] if elements else found


def prefetch_buckets(tensors: Sequence[Tensor], prefetch: int) -> list[int]:
    """Elements of each all-gather of ZeRO-3: parameters are added until a bucket is full."""
    runs: list[int] = []
    elements = 0
    for tensor in tensors:
        elements += tensor.elements
        if elements >= prefetch:
            runs.append(elements)
            elements = 0
    return [*runs, elements] if elements else runs


def padded(elements: int, grain: int) -> int:
    """Round up to a multiple of `grain`."""
    return math.ceil(elements / grain) * grain
