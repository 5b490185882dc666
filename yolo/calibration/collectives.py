"""The network's part of a calibration: collectives timed as in training steps, and the bytes that the network adds."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import psutil
import torch

from yolo.calibration.stopwatch import seconds_per_call
from yolo.calibration.strategies import STRATEGIES
from yolo.calibration.synthetic_step import SyntheticTraining, TimingJob
from yolo.communication.metering.wire_bytes import (
    POINT_TO_POINT,
    gloo_interface,
    sent_bytes,
    tcp_bytes_per_payload_byte,
)
from yolo.planner.cost.collectives import BF16
from yolo.planner.profile import Point
from yolo.training.engine.distributed import DistributedContext, all_gather_object, broadcast_object

SMALLEST_BYTES = 64
GROWTH = 4
"""From one size of a collective to the next."""
LONGEST_CALL_SECONDS = 4.0
"""A collective of a size that takes longer ends the series."""
LARGEST_HALO_BYTES = 2**20
"""Between neighbours; a halo of 3,072 pixels is as large."""
OTHER_ELEMENTS = 2**24
"""64 MiB, more than fits in caches."""
BUSY_SECONDS = 0.2
"""To observe how busy the cores are; their counters tick every 10 ms."""
LARGE_STEPS = 3
SMALL_CALLS = 20
SMALL_BYTES = 1024
SETTLED_SECONDS = 0.1
QUEUED = ("all_reduce", "all_gather", "reduce_scatter", "reduce")
"""Kinds of which strategies have many in flight at once."""
ROUNDS = 5


class NetworkCalibration:
    """Measures the network from one rank; all methods are collective."""

    def __init__(self, job: TimingJob, ranks: DistributedContext) -> None:
        self.job = job
        self.ranks = ranks
        # Emulated hosts share one kernel, hence one boot ID.
        boot_file = Path("/proc/sys/kernel/random/boot_id")
        boot = boot_file.read_text() if boot_file.exists() else str(ranks.rank)
        self._ranks_here = all_gather_object(ranks, boot).count(boot)
        # Several ranks of a machine send through one interface.
        self._has_own_counter = ranks.local_world_size == 1
        self._is_gloo = torch.distributed.get_backend() == "gloo"
        self._other_work = torch.zeros(OTHER_ELEMENTS, device=ranks.device)

    def collectives(self, elements: int) -> dict[str, list[Point]]:
        """Time each kind at sizes up to the largest that a model of `elements` parameters needs."""
        if self.ranks.world_size == 1:
            return {}
        model_bytes = 4 * elements
        largest = {
            "all_reduce": model_bytes,
            f"all_reduce{BF16}": model_bytes // 2,
            "all_gather": model_bytes,
            "reduce_scatter": model_bytes // 2,
            "reduce": model_bytes // 2,
            "all_to_all": model_bytes // 16,
            "broadcast": model_bytes // 64,
        }
        halos = {POINT_TO_POINT: LARGEST_HALO_BYTES}
        return {kind: self._curve(kind, size) for kind, size in (largest | halos).items()}

    def _curve(self, kind: str, largest_bytes: int) -> list[Point]:
        sizes = [min(SMALLEST_BYTES, largest_bytes)]
        while sizes[-1] < largest_bytes:
            sizes.append(min(largest_bytes, sizes[-1] * GROWTH))
        points: list[Point] = []
        for size in sizes:
            call, payload = self._call(kind, size)
            seconds, share = self._timed(call)
            points.append(Point(payload_bytes=payload, seconds=seconds, core_share=share))
            if seconds > LONGEST_CALL_SECONDS:
                break
        return points

    def _timed(self, call: Callable[[], None]) -> tuple[float, float]:
        """Mean seconds of a call as in a step, and the share of a rank's core that was busy.

        A step has computed before, so its data is in no cache. There is no barrier before the call: gloo's ranks then fall
        into a rhythm in which the first to begin sends first, and ends up to twice as late as with a barrier.
        """
        once = seconds_per_call(call, self.ranks.device)
        repeats = broadcast_object(self.ranks, round(max(3.0, min(25.0, 0.3 / once))))
        seconds: list[float] = []
        for _ in range(repeats):
            self._other_work.add_(1.0)
            seconds.append(seconds_per_call(call, self.ranks.device))
        dist.barrier()
        busy, begun = _busy_seconds(), time.perf_counter()
        repeats = broadcast_object(self.ranks, round(max(1.0, min(50.0, BUSY_SECONDS / once))))
        seconds_per_call(call, self.ranks.device, repeats)
        elapsed = time.perf_counter() - begun
        cores = (_busy_seconds() - busy) / elapsed / self._ranks_here
        available = min(1.0, (psutil.cpu_count() or 1) / self._ranks_here)
        share = min(1.0, max(0.0, mean_over_ranks(self.ranks, cores / available)))
        return mean_over_ranks(self.ranks, _without_extremes(seconds)), share

    def behind(self) -> dict[str, float]:
        """Seconds of a small collective queued behind others in flight, by kind."""
        kinds = QUEUED if self.ranks.world_size > 1 else ()
        return {kind: self._seconds_queued(kind) for kind in kinds}

    def _seconds_queued(self, kind: str) -> float:
        calls = [self._call(kind, SMALL_BYTES, is_async=True)[0] for _ in range(SMALL_CALLS)]

        def start_and_wait() -> None:
            for work in [call() for call in calls]:
                work.wait()

        seconds = []
        for _ in range(ROUNDS):
            dist.barrier()
            seconds.append(seconds_per_call(start_and_wait, self.ranks.device) / SMALL_CALLS)
        return mean_over_ranks(self.ranks, statistics.median(seconds))

    def _call(self, kind: str, size: int, is_async: bool = False) -> tuple[Callable[[], Any], int]:
        """A function that runs the collective once, and its payload in bytes: `size`, rounded to a multiple of the ranks."""
        ranks, device = self.ranks.world_size, self.ranks.device
        dtype = torch.bfloat16 if kind.endswith(BF16) else torch.float32
        width = torch.finfo(dtype).bits // 8
        count = max(1, size // width // ranks) * ranks
        full = torch.ones(count, dtype=dtype, device=device)
        part = torch.ones(count // ranks, dtype=dtype, device=device)
        result = torch.ones_like(full)
        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda: dist.all_reduce(full, async_op=is_async),
            "all_gather": lambda: dist.all_gather_into_tensor(full, part, async_op=is_async),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, full, async_op=is_async),
            "reduce": lambda: dist.reduce(full, 0, async_op=is_async),
            "all_to_all": lambda: dist.all_to_all_single(result, full, async_op=is_async),
            "broadcast": lambda: dist.broadcast(full, 0, async_op=is_async),
            POINT_TO_POINT: lambda: self._swap(full, result),
        }
        return calls[kind.removesuffix(BF16)], count * width

    def _swap(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        """Pairs of neighbours send each other a tensor; a last rank without a neighbour does not."""
        peer = self.ranks.rank ^ 1
        if peer < self.ranks.world_size:
            # Not imported: the traffic meter replaces torch's functions.
            messages = [
                torch.distributed.P2POp(torch.distributed.isend, sent, peer),
                torch.distributed.P2POp(torch.distributed.irecv, received, peer),
            ]
            for work in torch.distributed.batch_isend_irecv(messages):
                work.wait()

    def framing(self, elements: int) -> tuple[float, float]:
        """Interface bytes per payload byte sent, and Gbit/s on the link, of real steps that send full gradients."""
        if self.ranks.world_size == 1:
            return 1.0, 1.0
        payload = sent_bytes("all_reduce", 4 * elements, self.ranks.world_size, self._is_gloo)
        trainer = SyntheticTraining(STRATEGIES["zero0"], self.job, self.ranks)
        trainer.step()
        sent, seconds = self._sent(trainer.step, LARGE_STEPS)
        del trainer
        gc.collect()
        factor = sent / payload
        if not self._has_own_counter or not 1.0 <= factor <= 1.5:
            factor = tcp_bytes_per_payload_byte() if self._is_gloo else 1.0
        return factor, payload * factor * 8e-9 / seconds

    def bytes_beside(self, kinds: Iterable[str], factor: float) -> dict[str, float]:
        """Interface bytes of a collective in addition to its payload's, from messages that fit in one frame."""
        if not self._has_own_counter:
            return {}
        found = {}
        for kind in kinds:
            call, payload = self._call(kind, SMALL_BYTES)
            call()
            sent, _ = self._sent(call, SMALL_CALLS)
            name = kind.removesuffix(BF16)
            expected = sent_bytes(name, payload, self.ranks.world_size, self._is_gloo)
            found[kind] = max(0.0, sent - expected * factor)
        return found

    def _sent(self, call: Callable[[], None], times: int) -> tuple[float, float]:
        """Bytes that a rank's interface sends per call, and the seconds per call; means over the ranks."""
        dist.barrier()
        before = interface_bytes()
        seconds = seconds_per_call(call, self.ranks.device, times)
        time.sleep(SETTLED_SECONDS)  # the last acknowledgements
        sent = (interface_bytes() - before) / times
        return mean_over_ranks(self.ranks, sent), mean_over_ranks(self.ranks, seconds)


def mean_over_ranks(ranks: DistributedContext, value: float) -> float:
    """The mean of all ranks' values, on every rank."""
    return statistics.mean(all_gather_object(ranks, value))


def interface_bytes() -> int:
    """Bytes sent so far by the interface that gloo uses, headers included; 0 if nothing counts them."""
    counter = Path(f"/sys/class/net/{gloo_interface()}/statistics/tx_bytes")
    return int(counter.read_text()) if counter.exists() else 0


def _without_extremes(seconds: Sequence[float]) -> float:
    """The mean without the lowest and the highest tenth."""
    cut = len(seconds) // 10
    return statistics.mean(sorted(seconds)[cut : len(seconds) - cut])


def _busy_seconds() -> float:
    """Busy seconds of all the machine's cores, in all processes: the kernel does the network's work."""
    times = psutil.cpu_times()
    not_busy = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)
    return float(sum(times) - not_busy)
