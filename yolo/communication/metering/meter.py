"""A traffic meter: bytes and seconds of every collective, without making any of them wait.

It wraps `torch.distributed`'s functions, which DeepSpeed, torch's SyncBatchNorm and communication hooks, the collectives
of Python objects and our own code all call. It misses what is not a Python call: the all-reduces of
DistributedDataParallel's C++ reducer without a hook and its wait for those of a hook, functional collectives, and the
seconds (not the bytes) of a coalescing manager. DeepSpeed's own comms_logger synchronises at every call, which removes
the overlap that it should measure.
"""

import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self

import deepspeed.comm.comm as deepspeed_comm
import torch
from torch.distributed import P2POp, distributed_c10d

from yolo.communication.metering.traffic import KindTraffic, Traffic
from yolo.communication.metering.wire_bytes import sent_bytes, tcp_bytes_per_payload_byte


@dataclass(frozen=True, slots=True)
class Collective:
    """One of torch's functions."""

    kind: str
    """The same for its variants for lists, single tensors and so on."""
    payload: str
    """The argument that holds the payload."""


COLLECTIVES: dict[str, Collective] = {
    "all_reduce": Collective("all_reduce", "tensor"),
    "all_reduce_coalesced": Collective("all_reduce", "tensors"),
    "reduce": Collective("reduce", "tensor"),
    "broadcast": Collective("broadcast", "tensor"),
    "all_gather": Collective("all_gather", "tensor_list"),
    "all_gather_single": Collective("all_gather", "output_tensor"),
    "all_gather_into_tensor": Collective("all_gather", "output_tensor"),
    "_all_gather_base": Collective("all_gather", "output_tensor"),
    "gather": Collective("gather", "tensor"),
    "scatter": Collective("scatter", "tensor"),
    "reduce_scatter": Collective("reduce_scatter", "input_list"),
    "reduce_scatter_single": Collective("reduce_scatter", "input"),
    "reduce_scatter_tensor": Collective("reduce_scatter", "input"),
    "_reduce_scatter_base": Collective("reduce_scatter", "input"),
    "all_to_all": Collective("all_to_all", "input_tensor_list"),
    "all_to_all_single": Collective("all_to_all", "input"),
    "batch_isend_irecv": Collective("point_to_point", "p2p_op_list"),
}
"""torch's functions by name."""


def replace_collectives(wrap: Callable[[Collective, Callable[..., Any]], Any]) -> ExitStack:
    """Replace each of torch's collectives by what `wrap` makes of it, until the result is closed.

    Needs an initialized process group: DeepSpeed's backend object keeps two of the functions as its own attributes.
    """
    wrapped = {
        id(original): wrap(collective, original)
        for name, collective in COLLECTIVES.items()
        if (original := getattr(distributed_c10d, name, None)) is not None
    }
    replaced = ExitStack()
    for holder in (torch.distributed, distributed_c10d, deepspeed_comm.cdb):
        for name, value in list(getattr(holder, "__dict__", {}).items()):
            if id(value) in wrapped:
                replaced.callback(setattr, holder, name, value)
                setattr(holder, name, wrapped[id(value)])
    return replaced


class TrafficMeter:
    """Counts from `attach` to `detach`; `take` returns what was counted since the last `take`."""

    def __init__(self) -> None:
        # Collectives also start on autograd's threads and end on gloo's: a deque works across threads without a lock.
        self._counted: deque[tuple[str, KindTraffic]] = deque()
        self._timed: deque[_Timed] = deque()
        self._future_waits: deque[_ClockSpan] = deque()
        self._future_wait = threading.Lock()
        self._is_on_gpu = False  # of the last collective: a future does not show it
        self._replaced = ExitStack()
        self._thread = threading.local()
        self._framing = 1.0

    def attach(self) -> Self:
        """Start counting; needs an initialized process group."""
        self._framing = tcp_bytes_per_payload_byte()
        self._replaced = replace_collectives(self._metered)
        self._replaced.callback(setattr, torch._C.Future, "wait", vars(torch._C.Future)["wait"])
        torch._C.Future.wait = self._timed_future_wait(torch._C.Future.wait)  # type: ignore[method-assign]
        return self

    def detach(self) -> None:
        """Stop counting and restore torch's and DeepSpeed's functions."""
        self._replaced.close()

    def take(self) -> Traffic:
        """Traffic since the last call; a collective's seconds belong to the call after its end.

        On a GPU this waits for the collectives that were started.
        """
        traffic = Traffic()
        for kind, part in _drained(self._counted):
            traffic.count(kind, part)
        timed, future_waits = list(_drained(self._timed)), list(_drained(self._future_waits))
        for each in timed:
            seconds = each.span.seconds()
            exposed = seconds if each.is_exposed else 0.0
            if not each.is_exposed:
                exposed = sum(each.span.seconds_shared_with(wait) for wait in future_waits)
            part = KindTraffic(seconds=seconds * each.is_total, exposed_seconds=exposed)
            traffic.count(each.kind, part)
        return traffic

    def _metered(self, collective: Collective, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @wraps(original)
        def metered(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._thread, "is_inside", False):
                return original(*args, **kwargs)  # torch builds some from others: they count once
            given = signature.bind(*args, **kwargs).arguments
            payload = _tensors(given[collective.payload])
            operations: Sequence[P2POp] = given.get("p2p_op_list", ())
            touched = [operation.tensor for operation in operations] or payload
            is_on_gpu = any(tensor.is_cuda for tensor in touched)
            group = operations[0].group if operations else given.get("group")
            started = _now(is_on_gpu)
            self._thread.is_inside = True
            try:
                work = original(*args, **kwargs)
            finally:
                self._thread.is_inside = False
            ranks = torch.distributed.get_world_size(group)
            if ranks < 1:
                return work  # this rank is not in the group
            size = sum(tensor.numel() * tensor.element_size() for tensor in payload)
            is_gloo = torch.distributed.get_backend(group) == "gloo"
            sent = sent_bytes(collective.kind, size, ranks, is_gloo, len(payload)) if size else 0.0
            wire_bytes = sent * (self._framing if is_gloo else 1)
            self._counted.append((collective.kind, KindTraffic(1, size, wire_bytes)))
            self._is_on_gpu = is_on_gpu
            if work is None or isinstance(work, distributed_c10d._IllegalWork):
                span = _ClockSpan.since(started)
                self._timed.append(_Timed(collective.kind, span, is_total=True, is_exposed=True))
                return work
            if isinstance(work, list):  # they run side by side: the last one's time is that of all
                timed = [
                    _TimedWork(each, collective.kind, started, False, self._timed) for each in work
                ]
                for each in timed[:-1]:
                    each.leave_out_of_total()
                return timed
            # NCCL gives lists of uneven tensors a work without a future, and asking for one would crash.
            has_future = not (is_on_gpu and len(payload) > 1)
            return _TimedWork(work, collective.kind, started, has_future, self._timed)

        return metered

    def _timed_future_wait(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def wait(future: Any) -> Any:
            if not self._future_wait.acquire(blocking=False):
                return original(future)  # in a callback that another wait already waits for
            started = _now(self._is_on_gpu)
            try:
                return original(future)
            finally:
                self._future_waits.append(_ClockSpan.since(started))
                self._future_wait.release()

        return wait


class _TimedWork:
    """A running collective: records when it ends, and how long each `wait` takes."""

    def __init__(
        self, work: Any, kind: str, started: Any, has_future: bool, timed: "deque[_Timed]"
    ) -> None:
        self._work = work
        self._kind = kind
        self._started = started
        self._timed = timed
        self._ends_with_wait = True
        if has_future:
            # On a GPU the callback runs at once, on a stream of torch's pool that waits for the collective: an event
            # marks the end there, and neither the host nor the computing stream waits.
            try:
                work.get_future().add_done_callback(lambda _: self._ended())
                self._ends_with_wait = False
            except (RuntimeError, NotImplementedError):
                pass  # not all backends' works have one: then the end of `wait` is used

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        started = _now(isinstance(self._started, torch.cuda.Event))
        try:
            return self._work.wait(*args, **kwargs)
        finally:
            span = _ClockSpan.since(started)
            self._timed.append(_Timed(self._kind, span, is_total=False, is_exposed=True))
            if self._ends_with_wait:
                self._ends_with_wait = False
                self._ended()

    def leave_out_of_total(self) -> None:
        """Count only what is waited for it."""
        self._ends_with_wait = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

    def _ended(self) -> None:
        span = _ClockSpan.since(self._started)
        self._timed.append(_Timed(self._kind, span, is_total=True, is_exposed=False))


@dataclass(frozen=True, slots=True)
class _ClockSpan:
    """The time between two readings of the clock in seconds, or between two events of a GPU."""

    start: Any
    end: Any

    @classmethod
    def since(cls, start: Any) -> "_ClockSpan":
        return cls(start, _now(isinstance(start, torch.cuda.Event)))

    def seconds(self) -> float:
        """Waits for a GPU's events."""
        return _seconds(self.start, self.end)

    def seconds_shared_with(self, other: "_ClockSpan") -> float:
        """The length of the overlap; 0 between a GPU's span and the host's."""
        if type(self.end) is not type(other.end):
            return 0.0
        start, end = _seconds(other.start, self.start), _seconds(other.start, self.end)
        return max(0.0, min(end, other.seconds()) - max(start, 0.0))


@dataclass(frozen=True, slots=True)
class _Timed:
    """A collective's time from start to end (is_total), or the time waited for it (is_exposed), or both in one."""

    kind: str
    span: _ClockSpan
    is_total: bool
    is_exposed: bool


def _now(is_on_gpu: bool) -> Any:
    """The clock's reading in seconds, or an event in the GPU's current stream."""
    if not is_on_gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(start: Any, end: Any) -> float:
    if isinstance(end, torch.cuda.Event):
        start.synchronize()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    return end - start


def _drained(items: deque[Any]) -> Iterator[Any]:
    while items:
        yield items.popleft()


def _tensors(payload: Any) -> Sequence[torch.Tensor]:
    """The tensors of a payload; of a list of point-to-point operations, those that are sent."""
    if isinstance(payload, torch.Tensor):
        return (payload,)
    is_sent = torch.distributed.isend
    return tuple(
        each.tensor if isinstance(each, P2POp) else each
        for each in payload
        if not isinstance(each, P2POp) or each.op is is_sent
    )
