"""What a rank does in a step under a recipe's strategy, in order: computing, collectives, waiting.

The collectives are those that DeepSpeed 0.19.8 and this repo's own exchanges issue, with their sizes; tests hold them
against a recording of the real ones.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yolo.planner.collectives import BF16
from yolo.planner.local import LocalWork
from yolo.planner.network import Network, Tensor
from yolo.planner.timeline import Compute, Event, Exchange, Wait
from yolo.recipe.architecture import strides
from yolo.recipe.schema import Recipe
from yolo.recipe.sections.optimizer import (
    ONE_BIT,
    OneBitAdamSection,
    OneBitLambSection,
    ZeroOneAdamSection,
)

BLOCK = 512
"""Elements that share a scale in a 1-bit exchange, as in yolo.communication.blocks."""
SCALAR_BYTES = 4
LATEST_FREEZE = 0.25
"""Of the run: when an automatic freeze_step freezes at the latest, and so what a plan has to reckon with."""
EARLIEST_LOW_RANK = 10
"""Steps before an automatic powersgd_start_step."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Some of a run's steps, all alike."""

    name: str
    share: float
    """Of the run's steps."""
    events: tuple[Event, ...]
    period: int = 1
    """Steps that the events make up."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the events depend on."""

    recipe: Recipe
    network: Network
    work: LocalWork
    ranks: int
    is_nccl: bool
    steps: int
    """Of the whole run."""

    @property
    def matches_bytes(self) -> int:
        """The loop's own: matched boxes of each level."""
        return SCALAR_BYTES * len(strides(self.recipe.model.variant))


def phases(situation: Situation, warmup_share: float) -> list[Phase]:
    """A run's phases in order; the last is the one that it stays in.

    warmup_share: of the learning rate's warm-up in the run's steps.
    """
    recipe, optimizer = situation.recipe, situation.recipe.optimizer
    if situation.ranks == 1:
        return [Phase("computing", 1.0, tuple(_step(situation, ())))]
    if isinstance(optimizer, OneBitAdamSection | OneBitLambSection):
        asked = optimizer.freeze_step
        before = LATEST_FREEZE if asked == "auto" else _share(situation, asked)
        return [
            Phase("whole gradients", before, tuple(_step(situation, _whole(situation)))),
            Phase("1 bit", 1 - before, tuple(_step(situation, _one_bit(situation)))),
        ]
    if isinstance(optimizer, ZeroOneAdamSection):
        return _zero_one_phases(situation, optimizer, warmup_share)
    every = recipe.communication.sync_every
    if every > 1:
        exchange = _one_bit(situation) if recipe.communication.outer_one_bit else _whole(situation)
        return [
            Phase(f"every {every} steps", 1.0, tuple(_periodic(situation, exchange, every)), every)
        ]
    if recipe.communication.reducer == "powersgd":
        asked = recipe.communication.powersgd_start_step
        before = warmup_share if asked == "auto" else _share(situation, asked)
        return [
            Phase("whole gradients", before, tuple(_step(situation, _whole(situation)))),
            Phase("low rank", 1 - before, tuple(_step(situation, _low_rank(situation)))),
        ]
    return [Phase("whole gradients", 1.0, tuple(_every_step(situation)))]


def _share(situation: Situation, steps: int) -> float:
    return min(1.0, steps / max(1, situation.steps))


def _zero_one_phases(
    situation: Situation, optimizer: ZeroOneAdamSection, warmup_share: float
) -> list[Phase]:
    asked, longest = optimizer.var_freeze_step, optimizer.local_step_clipper
    frozen = warmup_share if asked == "auto" else _share(situation, asked)
    exchange = _one_bit(situation)
    every_step = Phase("1 bit", frozen, tuple(_step(situation, exchange)))
    if longest == 1:
        return [Phase("1 bit", 1.0, every_step.events)]
    half = max(1, longest // 2)  # while intervals double up to the longest
    ramp = Phase(
        f"1 bit, up to every {longest} steps",
        (1 - frozen) / 2,
        tuple(_periodic(situation, exchange, half)),
        half,
    )
    steady = tuple(_periodic(situation, exchange, longest))
    return [
        every_step,
        ramp,
        Phase(f"1 bit, every {longest} steps", (1 - frozen) / 2, steady, longest),
    ]


# --- a step's frame ---------------------------------------------------------------------------------------------


def _every_step(situation: Situation) -> Iterator[Event]:
    recipe = situation.recipe
    if recipe.communication.reducer == "overlapped":
        return _with_buckets(situation)
    match recipe.zero.stage:
        case 0:
            return _step(situation, _whole(situation))
        case 3:
            return _stage_3(situation)
        case _:
            return _stage_1_and_2(situation)


def _forward(situation: Situation, is_first: bool) -> Iterator[Event]:
    """With SyncBatchNorm each layer stops for its ranks; the loop's own sum travels meanwhile."""
    work, recipe = situation.work, situation.recipe
    if is_first and situation.ranks > 1:
        yield Exchange("all_reduce", situation.matches_bytes, is_waited=False)
    yield Compute(work.forward_seconds, "forward")
    if recipe.model.sync_batchnorm:
        for channels in _batchnorm_channels(situation.network):
            yield Exchange("all_gather", 4 * (2 * channels + 1) * situation.ranks, is_waited=True)
    yield Wait()


def _backward(
    situation: Situation, exchanges: Sequence[tuple[float, Sequence[Exchange]]]
) -> Iterator[Event]:
    """`exchanges` begin at a share of backward each."""
    work = situation.work
    seconds = work.backward_seconds + (work.extra_seconds if work.is_extra_in_backward else 0.0)
    done = 0.0
    for at, some in exchanges:
        if at > done:
            yield Compute(seconds * (at - done), "backward")
            done = at
        yield from some
    yield Compute(seconds * (1 - done), "backward")
    if situation.recipe.model.sync_batchnorm:
        for channels in _batchnorm_channels(situation.network):
            yield Exchange("all_reduce", 4 * 2 * channels, is_waited=True)


def _batchnorm_channels(network: Network) -> list[int]:
    return [tensor.elements for tensor in network.tensors if tensor.group == "norms"]


def _step(situation: Situation, exchanges: Sequence[Exchange]) -> Iterator[Event]:
    """A step whose exchanges all come after its last backward."""
    micro_steps = situation.recipe.train.gradient_accumulation_steps
    assert micro_steps != "auto"
    for micro in range(micro_steps):
        yield from _forward(situation, micro == 0)
        yield from _backward(situation, ())
    if exchanges:
        yield from _own_work(situation)
        yield from exchanges
    yield Compute(situation.work.update_seconds, "update")


def _own_work(situation: Situation) -> Iterator[Event]:
    """What the strategy does beside, where it is not done in backward."""
    if not situation.work.is_extra_in_backward:
        yield Compute(situation.work.extra_seconds, "codec")


def _periodic(situation: Situation, exchanges: Sequence[Exchange], every: int) -> Iterator[Event]:
    """Steps that ranks take alone, and one after which they exchange: nothing is sent in between."""
    alone = [event for event in _step(situation, ()) if not isinstance(event, Exchange | Wait)]
    for _ in range(every):
        yield from alone
    if situation.recipe.optimizer.type in ONE_BIT:  # its last step hears of the others' boxes
        yield Exchange("all_reduce", situation.matches_bytes, is_waited=False)
    # Packing is measured as a step's mean, as if it were done in each.
    yield Compute(situation.work.extra_seconds * every, "codec")
    yield from exchanges


# --- what is exchanged ------------------------------------------------------------------------------------------


def _suffix(data_type: str) -> str:
    return "" if data_type == "fp32" else BF16


def _bytes(data_type: str) -> int:
    return 4 if data_type == "fp32" else 2


def _wire(situation: Situation, kind: str, elements: int, is_waited: bool) -> Exchange:
    """Of gradients, in the type that communication.data_type has them travel in."""
    data_type = situation.recipe.communication.data_type
    return Exchange(kind + _suffix(data_type), elements * _bytes(data_type), is_waited)


def _whole(situation: Situation) -> list[Exchange]:
    """Everything in one piece."""
    return [_wire(situation, "all_reduce", situation.network.elements, is_waited=True)]


def one_bit_elements(network: Network, ranks: int) -> int:
    """Of the padded vector: each tensor begins a block of its own, and ranks share the blocks evenly."""
    blocks = sum(math.ceil(tensor.elements / BLOCK) for tensor in network.tensors)
    return math.ceil(blocks / ranks) * ranks * BLOCK


def _one_bit(situation: Situation) -> list[Exchange]:
    """Signs and scales, to the rank that averages them and back."""
    elements = one_bit_elements(situation.network, situation.ranks)
    message = elements // 8 + 4 * (elements // BLOCK + situation.ranks)
    return [
        Exchange("all_to_all", message, is_waited=True),
        Exchange("all_gather", message, is_waited=True),
    ]


def _low_rank(situation: Situation) -> list[Exchange]:
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
        Exchange("all_reduce", 4 * size, is_waited=True) for size in (plain, left, right) if size
    ]


# --- buckets ----------------------------------------------------------------------------------------------------


def _with_buckets(situation: Situation) -> Iterator[Event]:
    """The reducer `overlapped`: buckets of neighbours, each sent once it and those before it are complete."""
    bucket_size = situation.recipe.communication.bucket_size
    assert bucket_size != "auto"
    completed = _completion(situation)
    exchanges = []
    latest = 0.0
    for group in reversed_groups(situation.network, bucket_size):
        latest = max(latest, *(completed[index] for index in group))
        elements = sum(situation.network.tensors[index].elements for index in group)
        exchanges.append((latest, [_wire(situation, "all_reduce", elements, is_waited=False)]))
    yield from _micro_steps(situation, exchanges, last_only=True)
    yield Wait()
    yield from _own_work(situation)
    yield Compute(situation.work.update_seconds, "update")


def _completion(situation: Situation) -> dict[int, float]:
    """When each tensor's gradient is complete, as a share of backward."""
    return dict(zip(situation.network.ready_order, situation.work.ready, strict=True))


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


def _micro_steps(
    situation: Situation,
    exchanges: Sequence[tuple[float, Sequence[Exchange]]],
    last_only: bool,
) -> Iterator[Event]:
    micro_steps = situation.recipe.train.gradient_accumulation_steps
    assert micro_steps != "auto"
    for micro in range(micro_steps):
        yield from _forward(situation, micro == 0)
        is_sent = micro == micro_steps - 1 or not last_only
        yield from _backward(situation, exchanges if is_sent else ())


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


def _bucketed(situation: Situation, kind: str) -> list[tuple[float, list[Exchange]]]:
    """Under autocast convolutions' gradients travel in its type and the others in fp32, in buckets of their own."""
    recipe = situation.recipe
    bucket_size = recipe.zero.reduce_bucket_size
    assert bucket_size != "auto"
    is_waited = not (situation.is_nccl and recipe.zero.overlap_comm is True)
    ready = list(zip(situation.work.ready, situation.network.ready(), strict=True))
    autocast = recipe.precision.dtype
    if autocast == "fp32":
        streams = [(recipe.communication.data_type, ready)]
    else:
        streams = [
            (autocast, [(at, t) for at, t in ready if len(t.shape) > 1]),
            ("fp32", [(at, t) for at, t in ready if len(t.shape) == 1]),
        ]
    found = []
    for data_type, tensors in streams:
        for at, elements in flushes(tensors, bucket_size):
            size = elements * _bytes(data_type)
            found.append((at, [Exchange(kind + _suffix(data_type), size, is_waited)]))
    return sorted(found, key=lambda each: each[0])


def _stage_1_and_2(situation: Situation) -> Iterator[Event]:
    """Buckets all-reduced (or reduced to their owners) in backward, then each group's parameters gathered."""
    recipe, ranks = situation.recipe, situation.ranks
    kind = "all_reduce" if recipe.zero.use_multi_rank_bucket_allreduce else "reduce"
    yield from _micro_steps(situation, _bucketed(situation, kind), last_only=recipe.zero.stage == 1)
    yield Wait()
    yield from _own_work(situation)
    groups = situation.network.group_elements()
    for _ in groups:
        yield Exchange("all_reduce", SCALAR_BYTES, is_waited=True)
    yield Compute(situation.work.update_seconds / ranks, "update")
    for elements in groups:
        yield Exchange("all_gather", 4 * _padded(elements, 2 * ranks), is_waited=True)


def _padded(elements: int, grain: int) -> int:
    return math.ceil(elements / grain) * grain


def _stage_3(situation: Situation) -> Iterator[Event]:
    """Parameters gathered ahead of forward, gradients reduce-scattered, kept parameters gathered one by one at the end.

    A network this small keeps what it has gathered until backward is over.
    """
    recipe, network, work = situation.recipe, situation.network, situation.work
    threshold = recipe.zero.stage3_param_persistence_threshold
    prefetch = recipe.zero.stage3_prefetch_bucket_size
    assert threshold != "auto"
    assert prefetch != "auto"
    micro_steps = recipe.train.gradient_accumulation_steps
    assert micro_steps != "auto"
    gathered = [tensor for tensor in network.tensors if tensor.elements >= threshold]
    runs = _fetched_together(gathered, prefetch)
    for micro in range(micro_steps):
        for number, elements in enumerate(runs):
            yield Exchange(
                "all_gather", 4 * elements, is_waited=not situation.is_nccl or number == 0
            )
        yield from _forward(situation, micro == 0)
        yield from _backward(situation, _bucketed(situation, "reduce_scatter"))
        yield Wait()
    yield from _own_work(situation)
    for _ in network.group_elements():
        yield Exchange("all_reduce", 2 * SCALAR_BYTES, is_waited=True)
    yield Compute(work.update_seconds / situation.ranks, "update")
    for tensor in network.tensors:
        if tensor.elements < threshold:
            padded = _padded(tensor.elements, situation.ranks)
            yield Exchange("all_gather", 4 * padded, is_waited=False)
    yield Wait()


def _fetched_together(tensors: Sequence[Tensor], prefetch: int) -> list[int]:
    """Elements of each gathering: parameters are added until a bucket is full."""
    runs: list[int] = []
    elements = 0
    for tensor in tensors:
        elements += tensor.elements
        if elements >= prefetch:
            runs.append(elements)
            elements = 0
    return [*runs, elements] if elements else runs


def ddp_events(situation: Situation, bucket_bytes: int) -> tuple[Event, ...]:
    """torch's DistributedDataParallel in fp32, for comparison: a small first bucket, then `bucket_bytes` each."""
    completed = _completion(situation)
    order = sorted(completed, key=lambda index: completed[index])
    exchanges: list[tuple[float, list[Exchange]]] = []
    limit, size = DDP_FIRST_BYTES, 0
    for index in order:
        size += 4 * situation.network.tensors[index].elements
        if size >= limit or index == order[-1]:
            exchanges.append((completed[index], [Exchange("all_reduce", size, is_waited=False)]))
            limit, size = bucket_bytes, 0
    # BatchNorm's means and variances go out from the first rank before each forward pass.
    buffers = 4 * 2 * sum(_batchnorm_channels(situation.network))
    events = [
        Exchange("broadcast", buffers, is_waited=True),
        *_micro_steps(situation, exchanges, last_only=True),
        Wait(),
        *_own_work(situation),
    ]
    return (*events, Compute(situation.work.update_seconds, "update"))


DDP_FIRST_BYTES = 2**20
"""torch.distributed._DEFAULT_FIRST_BUCKET_BYTES."""
