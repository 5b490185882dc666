"""What a rank does in a step under a recipe's strategy, in order: computing, collectives, waiting.

The collectives are those that DeepSpeed 0.19.8 and this repo's own exchanges issue, with their sizes; tests hold them
against a recording of the real ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yolo.planner.cost.context import MEETING_BYTES, SCALAR_BYTES, VOTE_BYTES, PlanContext
from yolo.planner.cost.message_sizes import (
    fetched_together,
    flushes,
    gradient_message,
    in_one_piece,
    low_rank,
    one_bit,
    padded,
    reversed_groups,
)
from yolo.planner.cost.model_stats import Network
from yolo.planner.cost.timeline import CommEvent, Compute, Event, Wait
from yolo.recipe.schema.optimizer import (
    ONE_BIT,
    OneBitAdamSection,
    OneBitLambSection,
    ZeroOneAdamSection,
)

LATEST_FREEZE = 0.25
"""Of the run: when an automatic freeze_step freezes at the latest, and so what a plan has to reckon with."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Some of a run's steps, all alike."""

    name: str
    share: float
    """Of the run's steps."""
    events: tuple[Event, ...]
    period: int = 1
    """Steps that the events make up."""


def phases(situation: PlanContext, warmup_share: float) -> list[Phase]:
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
            Phase("whole gradients", before, tuple(_step(situation, in_one_piece(situation)))),
            Phase("1 bit", 1 - before, tuple(_step(situation, one_bit(situation)))),
        ]
    if isinstance(optimizer, ZeroOneAdamSection):
        return _zero_one_phases(situation, optimizer, warmup_share)
    every = recipe.communication.sync_every
    if every > 1:
        exchange = (
            one_bit(situation) if recipe.communication.outer_one_bit else in_one_piece(situation)
        )
        return [
            Phase(f"every {every} steps", 1.0, tuple(_periodic(situation, exchange, every)), every)
        ]
    if recipe.communication.reducer == "powersgd":
        asked = recipe.communication.powersgd_start_step
        before = warmup_share if asked == "auto" else _share(situation, asked)
        return [
            Phase("whole gradients", before, tuple(_step(situation, in_one_piece(situation)))),
            Phase("low rank", 1 - before, tuple(_step(situation, low_rank(situation)))),
        ]
    return [Phase("whole gradients", 1.0, tuple(_every_step(situation)))]


def _share(situation: PlanContext, steps: int) -> float:
    return min(1.0, steps / max(1, situation.steps))


def _zero_one_phases(
    situation: PlanContext, optimizer: ZeroOneAdamSection, warmup_share: float
) -> list[Phase]:
    asked, longest = optimizer.var_freeze_step, optimizer.local_step_clipper
    frozen = warmup_share if asked == "auto" else _share(situation, asked)
    exchange = one_bit(situation)
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


def _every_step(situation: PlanContext) -> Iterator[Event]:
    recipe = situation.recipe
    if recipe.communication.reducer == "overlapped":
        return _with_buckets(situation)
    match recipe.zero.stage:
        case 0:
            return _step(situation, in_one_piece(situation))
        case 3:
            return _stage_3(situation)
        case _:
            return _stage_1_and_2(situation)


def _forward(situation: PlanContext, micro_step: int) -> Iterator[Event]:
    """With SyncBatchNorm each layer stops for its ranks; the loop's own sum travels meanwhile, and the guard's after it."""
    work, recipe = situation.work, situation.recipe
    if micro_step == 0 and situation.ranks > 1:
        yield CommEvent("all_reduce", situation.matches_bytes, is_waited=False)
    yield Compute(work.forward_seconds, "forward")
    if recipe.model.sync_batchnorm:
        for channels in _batchnorm_channels(situation.network):
            yield CommEvent("all_gather", 4 * (2 * channels + 1) * situation.ranks, is_waited=True)
    yield Wait()
    if micro_step == situation.micro_steps - 1 and situation.ranks > 1:
        yield CommEvent("all_reduce", VOTE_BYTES, is_waited=True)


def _backward(
    situation: PlanContext, exchanges: Sequence[tuple[float, Sequence[CommEvent]]]
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
            yield CommEvent("all_reduce", 4 * 2 * channels, is_waited=True)


def _batchnorm_channels(network: Network) -> list[int]:
    return [tensor.elements for tensor in network.tensors if tensor.group == "norms"]


def _step(situation: PlanContext, exchanges: Sequence[CommEvent]) -> Iterator[Event]:
    """A step whose exchanges all come after its last backward."""
    for micro in range(situation.micro_steps):
        yield from _forward(situation, micro)
        yield from _backward(situation, ())
    if exchanges:
        yield from _own_work(situation)
        yield from exchanges
    yield Compute(situation.work.update_seconds, "update")


def _own_work(situation: PlanContext) -> Iterator[Event]:
    """What the strategy does beside, where it is not done in backward."""
    if not situation.work.is_extra_in_backward:
        yield Compute(situation.work.extra_seconds, "codec")


def _periodic(
    situation: PlanContext, exchanges: Sequence[CommEvent], every: int
) -> Iterator[Event]:
    """Steps that ranks take alone, and one after which they exchange: nothing is sent in between."""
    alone = [event for event in _step(situation, ()) if not isinstance(event, CommEvent | Wait)]
    for _ in range(every):
        yield from alone
    if situation.recipe.optimizer.type in ONE_BIT:  # its last step is one in common
        yield CommEvent("all_reduce", situation.matches_bytes, is_waited=False)
        yield CommEvent("all_reduce", VOTE_BYTES, is_waited=True)
    else:
        yield CommEvent("all_reduce", MEETING_BYTES, is_waited=True)
    # Packing is measured as a step's mean, as if it were done in each.
    yield Compute(situation.work.extra_seconds * every, "codec")
    yield from exchanges


# --- buckets ----------------------------------------------------------------------------------------------------


def _with_buckets(situation: PlanContext) -> Iterator[Event]:
    """The reducer `overlapped`: buckets of neighbours, each sent once it and those before it are complete."""
    communication = situation.recipe.communication
    completed = _completion(situation)
    exchanges = []
    latest = 0.0
    for group in reversed_groups(situation.network, communication.bucket_size):
        latest = max(latest, *(completed[index] for index in group))
        elements = sum(situation.network.tensors[index].elements for index in group)
        message = gradient_message("all_reduce", elements, communication.data_type, is_waited=False)
        exchanges.append((latest, [message]))
    yield from _micro_steps(situation, exchanges, last_only=True)
    yield Wait()
    yield from _own_work(situation)
    yield Compute(situation.work.update_seconds, "update")


def _completion(situation: PlanContext) -> dict[int, float]:
    """When each tensor's gradient is complete, as a share of backward."""
    return dict(zip(situation.network.ready_order, situation.work.ready, strict=True))


def _micro_steps(
    situation: PlanContext,
    exchanges: Sequence[tuple[float, Sequence[CommEvent]]],
    last_only: bool,
) -> Iterator[Event]:
    for micro in range(situation.micro_steps):
        yield from _forward(situation, micro)
        is_sent = micro == situation.micro_steps - 1 or not last_only
        yield from _backward(situation, exchanges if is_sent else ())


def _bucketed(situation: PlanContext, kind: str) -> list[tuple[float, list[CommEvent]]]:
    """Under autocast convolutions' gradients travel in its type and the others in fp32, in buckets of their own."""
    recipe = situation.recipe
    bucket_size = recipe.zero.reduce_bucket_size
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
            found.append((at, [gradient_message(kind, elements, data_type, is_waited)]))
    return sorted(found, key=lambda each: each[0])


def _stage_1_and_2(situation: PlanContext) -> Iterator[Event]:
    """Buckets all-reduced (or reduced to their owners) in backward, then each group's parameters gathered."""
    recipe, ranks = situation.recipe, situation.ranks
    kind = "all_reduce" if recipe.zero.use_multi_rank_bucket_allreduce else "reduce"
    yield from _micro_steps(situation, _bucketed(situation, kind), last_only=recipe.zero.stage == 1)
    yield Wait()
    yield from _own_work(situation)
    groups = situation.network.group_elements()
    for _ in groups:
        yield CommEvent("all_reduce", SCALAR_BYTES, is_waited=True)
    yield Compute(situation.work.update_seconds / ranks, "update")
    for elements in groups:
        yield CommEvent("all_gather", 4 * padded(elements, 2 * ranks), is_waited=True)


def _stage_3(situation: PlanContext) -> Iterator[Event]:
    """Parameters gathered ahead of forward, gradients reduce-scattered, kept parameters gathered one by one at the end.

    A network this small keeps what it has gathered until backward is over.
    """
    recipe, network, work = situation.recipe, situation.network, situation.work
    threshold = recipe.zero.stage3_param_persistence_threshold
    prefetch = recipe.zero.stage3_prefetch_bucket_size
    gathered = [tensor for tensor in network.tensors if tensor.elements >= threshold]
    runs = fetched_together(gathered, prefetch)
    for micro in range(situation.micro_steps):
        for number, elements in enumerate(runs):
            is_waited = not situation.is_nccl or number == 0
            yield CommEvent("all_gather", 4 * elements, is_waited)
        yield from _forward(situation, micro)
        yield from _backward(situation, _bucketed(situation, "reduce_scatter"))
        yield Wait()
    yield from _own_work(situation)
    for _ in network.group_elements():
        yield CommEvent("all_reduce", 2 * SCALAR_BYTES, is_waited=True)
    yield Compute(work.update_seconds / situation.ranks, "update")
    for tensor in network.tensors:
        if tensor.elements < threshold:
            size = 4 * padded(tensor.elements, situation.ranks)
            yield CommEvent("all_gather", size, is_waited=False)
    yield Wait()


def ddp_events(situation: PlanContext, bucket_bytes: int) -> tuple[Event, ...]:
    """torch's DistributedDataParallel in fp32, for comparison: a small first bucket, then `bucket_bytes` each."""
    completed = _completion(situation)
    order = sorted(completed, key=lambda index: completed[index])
    exchanges: list[tuple[float, list[CommEvent]]] = []
    limit, size = DDP_FIRST_BYTES, 0
    for index in order:
        size += 4 * situation.network.tensors[index].elements
        if size >= limit or index == order[-1]:
            exchanges.append((completed[index], [CommEvent("all_reduce", size, is_waited=False)]))
            limit, size = bucket_bytes, 0
    # BatchNorm's means and variances go out from the first rank before each forward pass.
    buffers = 4 * 2 * sum(_batchnorm_channels(situation.network))
    events = [
        CommEvent("broadcast", buffers, is_waited=True),
        *_micro_steps(situation, exchanges, last_only=True),
        Wait(),
        *_own_work(situation),
    ]
    return (*events, Compute(situation.work.update_seconds, "update"))


DDP_FIRST_BYTES = 2**20
"""torch.distributed._DEFAULT_FIRST_BUCKET_BYTES."""
