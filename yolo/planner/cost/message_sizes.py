"""Messages of a step's exchanges and their sizes in bytes, as DeepSpeed 0.19.8 and this repo's own ones cut them."""

import math
from collections.abc import Sequence

from yolo.planner.cost.collectives import BF16
from yolo.planner.cost.context import PlanContext
from yolo.planner.cost.model_stats import Network, Tensor
from yolo.planner.cost.timeline import CommEvent

BLOCK = 512
"""Elements that share a scale in a 1-bit exchange, as in yolo.communication.compression.blocks."""


def gradient_message(kind: str, elements: int, data_type: str, is_waited: bool) -> CommEvent:
    """One message of gradients that travel as fp32, bf16 or fp16."""
    if data_type == "fp32":
        return CommEvent(kind, 4 * elements, is_waited)
    return CommEvent(kind + BF16, 2 * elements, is_waited)


def in_one_piece(situation: PlanContext) -> list[CommEvent]:
    """All gradients, or how far all weights have moved, in the type that communication.data_type asks for."""
    data_type = situation.recipe.communication.data_type
    return [gradient_message("all_reduce", situation.network.elements, data_type, is_waited=True)]


def one_bit_elements(network: Network, ranks: int) -> int:
    """Of the padded vector: each tensor begins a block of its own, and ranks share the blocks evenly."""
    blocks = sum(math.ceil(tensor.elements / BLOCK) for tensor in network.tensors)
    return math.ceil(blocks / ranks) * ranks * BLOCK


def one_bit(situation: PlanContext) -> list[CommEvent]:
    """Signs and scales, to the rank that averages them and back."""
    elements = one_bit_elements(situation.network, situation.ranks)
    message = elements // 8 + 4 * (elements // BLOCK + situation.ranks)
    return [
        CommEvent("all_to_all", message, is_waited=True),
        CommEvent("all_gather", message, is_waited=True),
    ]


def low_rank(situation: PlanContext) -> list[CommEvent]:
    """PowerSGD: vectors as they are, then the two factors of all matrices (Vogels et al., 2019, algorithm 1)."""
    rank = situation.recipe.communication.powersgd_rank
    left = right = plain = 0
    for tensor in situation.network.tensors:
        rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
        kept = min(rows, columns, rank)
        if len(tensor.shape) == 1 or (rows + columns) * rank >= rows * columns:
            plain += tensor.elements
        else:
            left += rows * kept
            right += columns * kept
    return [
        CommEvent("all_reduce", 4 * size, is_waited=True) for size in (plain, left, right) if size
    ]


def reversed_groups(network: Network, bucket_size: int) -> list[list[int]]:
    """Indices of tensors in runs from the network's end of up to `bucket_size` elements; a larger tensor alone."""
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


def flushes(tensors: Sequence[tuple[float, Tensor]], bucket_size: int) -> list[tuple[float, int]]:
    """ZeRO's buckets: (share of backward, elements) of each; one is sent when the next gradient does not fit."""
    found: list[tuple[float, int]] = []
    elements = 0
    for at, tensor in tensors:
        if elements and elements + tensor.elements > bucket_size:
            found.append((at, elements))
            elements = 0
        elements += tensor.elements
    return [*found, (1.0, elements)] if elements else found


def fetched_together(tensors: Sequence[Tensor], prefetch: int) -> list[int]:
    """Elements of each gathering: parameters are added until a bucket is full."""
    runs: list[int] = []
    elements = 0
    for tensor in tensors:
        elements += tensor.elements
        if elements >= prefetch:
            runs.append(elements)
            elements = 0
    return [*runs, elements] if elements else runs


def padded(elements: int, grain: int) -> int:
    """The least multiple of `grain` that holds them."""
    return math.ceil(elements / grain) * grain
