"""A traffic meter: bytes and seconds of every collective, without making any of them wait.

DeepSpeed sends everything through one backend object, `deepspeed.comm.comm.cdb`; the meter stands in front of its
methods. DeepSpeed's own comms_logger synchronises at every call, which undoes the overlap it is asked to measure.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import deepspeed.comm.comm as deepspeed_comm
import torch

WireShare = Callable[[int], float]
"""Bytes that a rank sends (and as many that it receives, in the mean over ranks) for each payload byte, of n ranks."""


def _reduce_scatter(n: int) -> float:
    # gloo's is an all-reduce and a copy (measured: 2(n-1)/n); NCCL sends half of that.
    return (2 if torch.distributed.get_backend() == "gloo" else 1) * (n - 1) / n


WIRE_SHARES: dict[str, tuple[str, WireShare]] = {
    "all_reduce": ("tensor", lambda n: 2 * (n - 1) / n),
    "all_reduce_coalesced": ("tensors", lambda n: 2 * (n - 1) / n),
    "reduce": ("tensor", lambda n: (n - 1) / n),
    "broadcast": ("tensor", lambda n: (n - 1) / n),
    "all_gather": ("tensor_list", lambda n: (n - 1) / n),
    "all_gather_into_tensor": ("output_tensor", lambda n: (n - 1) / n),
    "all_gather_coalesced": ("output_tensors", lambda n: (n - 1) / n),
    "reduce_scatter": ("input_list", _reduce_scatter),
    "reduce_scatter_tensor": ("input_tensor", _reduce_scatter),
    "all_to_all_single": ("input", lambda n: (n - 1) / n),
}
"""Backend method -> (the argument that holds the payload, ring algorithms' share of it on the wire)."""


@dataclass(slots=True)
class Traffic:
    """What one rank exchanged in some span of time."""

    calls: int = 0
    payload_bytes: int = 0
    wire_bytes: float = 0.0
    """Sent; as many are received. By the formulae of ring algorithms, headers left out."""
    seconds: float = 0.0
    """How long the rank, or on a GPU the stream that a collective was started from, waited for collectives.

    DeepSpeed starts those of `overlap_comm` from a stream of their own: there, on a GPU, this also holds what the
    computation hides.
    """

    def add(self, other: "Traffic") -> None:
        """Add another span to this one."""
        self.calls += other.calls
        self.payload_bytes += other.payload_bytes
        self.wire_bytes += other.wire_bytes
        self.seconds += other.seconds


class TrafficMeter:
    """Counts from `attach` to `detach`; `take` returns what was counted since the last `take`."""

    def __init__(self) -> None:
        self._traffic = Traffic()
        self._depth = 0
        self._attached: dict[str, Any] = {}
        self._backend: Any = None
        self._stream_waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def attach(self) -> "TrafficMeter":
        """Start counting; the process group must exist."""
        self._backend = deepspeed_comm.cdb
        for name, (argument, share) in WIRE_SHARES.items():
            original = getattr(self._backend, name, None)
            if callable(original):
                self._attached[name] = original
                setattr(self._backend, name, self._metered(name, original, argument, share))
        return self

    def detach(self) -> None:
        """Stop counting and leave the backend as it was."""
        for name in self._attached:
            delattr(self._backend, name)
        self._attached.clear()

    def take(self) -> Traffic:
        """What was counted since the last call. On a GPU this waits for the computing stream once."""
        if self._stream_waits:
            torch.cuda.current_stream().synchronize()
            waits = [start.elapsed_time(end) / 1000 for start, end in self._stream_waits]
            self._traffic.seconds += sum(waits)
            self._stream_waits.clear()
        taken, self._traffic = self._traffic, Traffic()
        return taken

    def _metered(
        self, name: str, original: Callable[..., Any], argument: str, share: WireShare
    ) -> Callable[..., Any]:
        @wraps(original)
        def metered(*args: Any, **kwargs: Any) -> Any:
            if self._depth:  # one collective that the backend builds from another counts once
                return original(*args, **kwargs)
            payload = kwargs.get(argument, args[0] if args else None)
            self._count(payload, kwargs.get("group"), share)
            self._depth += 1
            try:
                with self._waiting(payload):
                    work = original(*args, **kwargs)
            finally:
                self._depth -= 1
            return _TimedWork(work, self, payload) if hasattr(work, "wait") else work

        return metered

    def _count(self, payload: Any, group: Any, share: WireShare) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(payload))
        ranks = torch.distributed.get_world_size(group=group)
        self._traffic.calls += 1
        self._traffic.payload_bytes += size
        self._traffic.wire_bytes += size * share(ranks)

    def _waiting(self, payload: Any) -> "_Waiting":
        return _Waiting(self, any(tensor.is_cuda for tensor in _tensors(payload)))


class _Waiting:
    """Times a wait: of the calling thread, or of the GPU's current stream by two events that are read later."""

    def __init__(self, meter: TrafficMeter, is_on_gpu: bool) -> None:
        self.meter = meter
        self.is_on_gpu = is_on_gpu

    def __enter__(self) -> None:
        if self.is_on_gpu:
            self.start = torch.cuda.Event(enable_timing=True)
            self.start.record()
        else:
            self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.is_on_gpu:
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            self.meter._stream_waits.append((self.start, end))
        else:
            self.meter._traffic.seconds += time.perf_counter() - self.started


class _TimedWork:
    """A collective under way, whose `wait` is timed."""

    def __init__(self, work: Any, meter: TrafficMeter, payload: Any) -> None:
        self._work = work
        self._meter = meter
        self._payload = payload

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        with self._meter._waiting(self._payload):
            return self._work.wait(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _tensors(payload: Any) -> Iterable[torch.Tensor]:
    if isinstance(payload, torch.Tensor):
        return (payload,)
    return tuple(payload) if isinstance(payload, list | tuple) else ()
