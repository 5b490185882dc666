"""What a rank does in a step, in order: computing, collectives, waiting. `strategies` chooses the step of a recipe.

The collectives and their sizes are those that DeepSpeed 0.19.8 and this repo's strategies issue; tests compare them with
a recording of the real ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yolo.planner.cost.halos import (
    backward_halos,
    backward_statistics,
    batchnorm_channels,
    forward_halos,
    forward_statistics,
)
from yolo.planner.cost.message_sizes import (
    GUARD_SYNC_BYTES,
    NAN_GATE_BYTES,
    SCALAR_BYTES,
    PlanContext,
    gradient_event,
    padded,
    prefetch_buckets,
    reversed_groups,
    zero_buckets,
)
from yolo.planner.cost.timeline import CommEvent, Compute, Event, Wait
from yolo.recipe.schema.optimizer import ONE_BIT

TimedEvents = Sequence[tuple[float, Sequence[CommEvent]]]
"""Collectives, with the share of backward at which they begin."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run whose steps are all alike."""

    share: float
    """Share of the run's steps."""
    events: tuple[Event, ...]
    period: int = 1
    """Number of steps that the events are for."""
    syncs: int = 1
    """How often ranks wait for each other in them."""


def synced(context: PlanContext, share: float, comm_events: Sequence[CommEvent]) -> Phase:
    """Each step ends with the same collectives; the last one must be waited for, before the update."""
    return Phase(share, tuple(_step(context, comm_events)))


def periodic(
    context: PlanContext, share: float, comm_events: Sequence[CommEvent], every: int
) -> Phase:
    """Local steps, which send nothing, and a sync after every `every` of them."""
    is_synced_last = context.recipe.optimizer.type in ONE_BIT
    guard = [CommEvent("all_reduce", GUARD_SYNC_BYTES, is_waited=True)]
    if is_synced_last:
        guard = [
            CommEvent("all_reduce", context.positives_bytes, is_waited=False),
            CommEvent("all_reduce", NAN_GATE_BYTES, is_waited=True),
        ]
    local = list(_local_step(context, is_averaged=True))
    last = list(_local_step(context, is_averaged=not is_synced_last))
    # Packing is measured as the mean over steps, as if each step did it.
    packing = Compute(context.work.extra_seconds * every, "codec")
    return Phase(share, (*local * (every - 1), *last, *guard, packing, *comm_events), every)


def _local_step(context: PlanContext, is_averaged: bool) -> Iterator[Event]:
    """Nothing is sent but among the ranks of an image: their layers' messages, and `is_averaged`: what they sum in a local step."""
    columns = context.recipe.sharding.columns

    def summed(payload_bytes: float) -> Iterator[Event]:
        if is_averaged and columns > 1:
            yield CommEvent("all_reduce", payload_bytes, is_waited=True, ranks=columns)

    is_of_image = lambda event: isinstance(event, CommEvent) and event.ranks  # noqa: E731
    *passes, update = (e for e in _step(context) if isinstance(e, Compute) or is_of_image(e))
    yield from summed(context.positives_bytes)
    yield from passes
    yield from summed(NAN_GATE_BYTES)
    yield from summed(context.network.fp32_bytes)
    yield update


def _forward(context: PlanContext, micro_step: int) -> Iterator[Event]:
    """Each layer stops for the ranks of its images; the step's own sum travels meanwhile, and the NaN gate follows."""
    if micro_step == 0 and context.ranks > 1:
        yield CommEvent("all_reduce", context.positives_bytes, is_waited=False)
    yield Compute(context.work.forward_seconds, "forward")
    if context.ranks > 1:
        yield from forward_halos(context.recipe)
        yield from forward_statistics(context.recipe, context.network, context.ranks)
    yield Wait()
    if micro_step == context.micro_steps - 1 and context.ranks > 1:
        yield CommEvent("all_reduce", NAN_GATE_BYTES, is_waited=True)


def _backward(context: PlanContext, comm_events: TimedEvents) -> Iterator[Event]:
    work = context.work
    seconds = work.backward_seconds + (work.extra_seconds if work.is_extra_in_backward else 0.0)
    done = 0.0
    for at, some in comm_events:
        if at > done:
            yield Compute(seconds * (at - done), "backward")
            done = at
        yield from some
    yield Compute(seconds * (1 - done), "backward")
    if context.ranks > 1:
        yield from backward_halos(context.recipe)
        yield from backward_statistics(context.recipe, context.network, context.ranks)


def _micro_steps(
    context: PlanContext, comm_events: TimedEvents, last_only: bool
) -> Iterator[Event]:
    for micro_step in range(context.micro_steps):
        yield from _forward(context, micro_step)
        is_sent = micro_step == context.micro_steps - 1 or not last_only
        yield from _backward(context, comm_events if is_sent else ())


def _packing(context: PlanContext) -> Iterator[Event]:
    """The strategy's own work, unless it is done within backward."""
    if not context.work.is_extra_in_backward:
        yield Compute(context.work.extra_seconds, "codec")


def _step(
    context: PlanContext, after: Sequence[CommEvent] = (), beside: TimedEvents = ()
) -> Iterator[Event]:
    """Collectives after the last backward, or beside it."""
    yield from _micro_steps(context, beside, last_only=True)
    if beside:
        yield Wait()
    if beside or after:
        yield from _packing(context)
    yield from after
    yield Compute(context.work.update_seconds, "update")


def overlapped_events(context: PlanContext) -> Iterator[Event]:
    """The reducer `overlapped`: buckets of neighbours, each sent once it and those before it are complete."""
    communication = context.recipe.communication
    completed = _completion(context)
    comm_events = []
    latest = 0.0
    for group in reversed_groups(context.network, communication.bucket_size):
        latest = max(latest, *(completed[index] for index in group))
        elements = sum(context.network.tensors[index].elements for index in group)
        event = gradient_event("all_reduce", elements, communication.data_type, is_waited=False)
        comm_events.append((latest, [event]))
    yield from _step(context, beside=comm_events)


def _completion(context: PlanContext) -> dict[int, float]:
    """When each tensor's gradient is complete, as a share of backward."""
    return dict(zip(context.network.ready_order, context.work.ready, strict=True))


def _zero_events(context: PlanContext, kind: str) -> list[tuple[float, list[CommEvent]]]:
    """Under autocast, convolutions' gradients travel in its type and the others in fp32, in separate buckets."""
    recipe = context.recipe
    bucket_size = recipe.zero.reduce_bucket_size
    is_waited = not (context.is_nccl and recipe.zero.overlap_comm is True)
    ready = list(zip(context.work.ready, context.network.ready(), strict=True))
    autocast = recipe.precision.dtype
    streams = [(recipe.communication.data_type, ready)]
    if autocast != "fp32":
        streams = [
            (autocast, [(at, t) for at, t in ready if len(t.shape) > 1]),
            ("fp32", [(at, t) for at, t in ready if len(t.shape) == 1]),
        ]
    found = [
        (at, [gradient_event(kind, elements, data_type, is_waited)])
        for data_type, tensors in streams
        for at, elements in zero_buckets(tensors, bucket_size)
    ]
    return sorted(found, key=lambda each: each[0])


def stage_1_and_2_events(context: PlanContext) -> Iterator[Event]:
    """Buckets all-reduced (or reduced to their owners) in backward, then each group's parameters gathered."""
    zero, ranks = context.recipe.zero, context.ranks
    kind = "all_reduce" if zero.use_multi_rank_bucket_allreduce else "reduce"
    yield from _micro_steps(context, _zero_events(context, kind), last_only=zero.stage == 1)
    yield Wait()
    yield from _packing(context)
    groups = context.network.group_elements()
    for _ in groups:
        yield CommEvent("all_reduce", SCALAR_BYTES, is_waited=True)
    yield Compute(context.work.update_seconds / ranks, "update")
    for elements in groups:
        yield CommEvent("all_gather", 4 * padded(elements, 2 * ranks), is_waited=True)


def stage_3_events(context: PlanContext) -> Iterator[Event]:
    """Parameters gathered ahead of forward, gradients reduce-scattered, persistent parameters gathered one by one.

    A network of this size keeps what it has gathered until backward is over.
    """
    recipe, network, ranks = context.recipe, context.network, context.ranks
    threshold = recipe.zero.stage3_param_persistence_threshold
    prefetch = recipe.zero.stage3_prefetch_bucket_size
    gathered = [tensor for tensor in network.tensors if tensor.elements >= threshold]
    for micro_step in range(context.micro_steps):
        for number, elements in enumerate(prefetch_buckets(gathered, prefetch)):
            is_waited = not context.is_nccl or number == 0
            yield CommEvent("all_gather", 4 * elements, is_waited)
        yield from _forward(context, micro_step)
        yield from _backward(context, _zero_events(context, "reduce_scatter"))
        yield Wait()
    yield from _packing(context)
    for _ in network.group_elements():
        yield CommEvent("all_reduce", 2 * SCALAR_BYTES, is_waited=True)
    yield Compute(context.work.update_seconds / ranks, "update")
    for tensor in network.tensors:
        if tensor.elements < threshold:
            yield CommEvent("all_gather", 4 * padded(tensor.elements, ranks), is_waited=False)
    yield Wait()


def ddp_events(context: PlanContext, bucket_bytes: int) -> tuple[Event, ...]:
    """torch's DistributedDataParallel in fp32, for comparison: a small first bucket, then `bucket_bytes` each."""
    completed = _completion(context)
    order = sorted(completed, key=lambda index: completed[index])
    comm_events: list[tuple[float, list[CommEvent]]] = []
    limit, size = DDP_FIRST_BYTES, 0
    for index in order:
        size += 4 * context.network.tensors[index].elements
        if size >= limit or index == order[-1]:
            comm_events.append((completed[index], [CommEvent("all_reduce", size, is_waited=False)]))
            limit, size = bucket_bytes, 0
    # The first rank broadcasts BatchNorm's means and variances before each forward pass.
    buffers = 4 * 2 * sum(batchnorm_channels(context.network))
    broadcast = CommEvent("broadcast", buffers, is_waited=True)
    return (broadcast, *_step(context, beside=comm_events))


DDP_FIRST_BYTES = 2**20
"""torch.distributed._DEFAULT_FIRST_BUCKET_BYTES."""
