"""Collectives timed as training steps meet them, and what a network adds to their bytes: a part of a calibration."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import psutil
import torch

from yolo.calibration.strategies import STRATEGIES
from yolo.calibration.synthetic_step import SyntheticTraining, TimingJob
from yolo.communication.metering.wire_bytes import (
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
OTHER_ELEMENTS = 2**24
"""64 MiB, more than caches hold."""
BUSY_SECONDS = 0.2
"""To watch the cores, whose clock ticks every 10 ms."""
LARGE_STEPS = 3
SMALL_CALLS = 20
SMALL_BYTES = 1024
SETTLED_SECONDS = 0.1
BEHIND = ("all_reduce", "all_gather", "reduce_scatter", "reduce")
"""Kinds that strategies have many of under way at once."""
ROUNDS = 5


class NetworkCalibration:
    """The network as one rank finds it; all methods are collective."""

    def __init__(self, job: TimingJob, ranks: DistributedContext) -> None:
        self.job = job
        self.ranks = ranks
        self._ranks_here = self._ranks_on_this_machine()
        self._other_work = torch.zeros(OTHER_ELEMENTS, device=ranks.device)

    def collectives(self, elements: int) -> dict[str, list[Point]]:
        """Each kind at sizes up to what it has to carry of a network of so many parameters."""
        if self.ranks.world_size == 1:
            return {}
        whole = 4 * elements
        most = {
            "all_reduce": whole,
            f"all_reduce{BF16}": whole // 2,
            "all_gather": whole,
            "reduce_scatter": whole // 2,
            "reduce": whole // 2,
            "all_to_all": whole // 16,
            "broadcast": whole // 64,
        }
        return {kind: self._curve(kind, size) for kind, size in most.items()}

    def _curve(self, kind: str, most_bytes: int) -> list[Point]:
        """A collective at sizes up to `most_bytes`."""
        sizes = []
        size = SMALLEST_BYTES
        while size < most_bytes:
            sizes.append(size)
            size *= GROWTH
        points: list[Point] = []
        for size in [*sizes, most_bytes]:
            call, payload = self._call(kind, size)
            seconds, share = self._timed(call)
            points.append(Point(payload_bytes=payload, seconds=seconds, core_share=share))
            if seconds > LONGEST_CALL_SECONDS:
                break
        return points

    def _timed(self, call: Callable[[], None]) -> tuple[float, float]:
        """Mean seconds of a call as steps meet it, and the share of a rank's core that was busy.

        A step has computed before, so that what it sends lies in no cache. No barrier stands before it: gloo's ranks fall
        into a rhythm in which the one that begins first sends first, and ends up to twice as late as with one.
        """
        started = time.perf_counter()
        call()
        self._synchronise()
        once = time.perf_counter() - started
        repeats = broadcast_object(self.ranks, round(max(3.0, min(25.0, 0.3 / once))))
        seconds: list[float] = []
        for _ in range(repeats):
            self._other_work.add_(1.0)
            self._synchronise()
            started = time.perf_counter()
            call()
            self._synchronise()
            seconds.append(time.perf_counter() - started)
        dist.barrier()
        busy, begun = _busy_seconds(), time.perf_counter()
        for _ in range(
            broadcast_object(self.ranks, round(max(1.0, min(50.0, BUSY_SECONDS / once))))
        ):
            call()
        self._synchronise()
        elapsed = time.perf_counter() - begun
        cores = (_busy_seconds() - busy) / elapsed / self._ranks_here
        available = min(1.0, (psutil.cpu_count() or 1) / self._ranks_here)
        share = min(1.0, max(0.0, self._mean(cores / available)))
        return self._mean(_without_extremes(seconds)), share

    def behind(self) -> dict[str, float]:
        """Seconds that a small collective takes behind others that are under way, by kind."""
        if self.ranks.world_size == 1:
            return {}
        return {kind: self._behind(kind) for kind in BEHIND}

    def _behind(self, kind: str) -> float:
        calls = [self._call(kind, SMALL_BYTES, is_async=True)[0] for _ in range(SMALL_CALLS)]
        seconds = []
        for _ in range(ROUNDS):
            dist.barrier()
            started = time.perf_counter()
            for work in [call() for call in calls]:
                work.wait()
            self._synchronise()
            seconds.append((time.perf_counter() - started) / SMALL_CALLS)
        return self._mean(statistics.median(seconds))

    def _ranks_on_this_machine(self) -> int:
        """Emulated hosts share one kernel: their boot is the same."""
        boot = Path("/proc/sys/kernel/random/boot_id")
        own = boot.read_text() if boot.exists() else str(self.ranks.rank)
        return all_gather_object(self.ranks, own).count(own)

    def _call(self, kind: str, size: int, is_async: bool = False) -> tuple[Callable[[], Any], int]:
        """A function that runs the collective once, and the payload's bytes: `size`, rounded so that ranks share it."""
        ranks, device = self.ranks.world_size, self.ranks.device
        dtype = torch.bfloat16 if kind.endswith(BF16) else torch.float32
        width = torch.finfo(dtype).bits // 8
        count = max(1, size // width // ranks) * ranks
        whole = torch.ones(count, dtype=dtype, device=device)
        part = torch.ones(count // ranks, dtype=dtype, device=device)
        result = torch.ones_like(whole)
        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda: dist.all_reduce(whole, async_op=is_async),
            "all_gather": lambda: dist.all_gather_into_tensor(whole, part, async_op=is_async),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole, async_op=is_async),
            "reduce": lambda: dist.reduce(whole, 0, async_op=is_async),
            "all_to_all": lambda: dist.all_to_all_single(result, whole, async_op=is_async),
            "broadcast": lambda: dist.broadcast(whole, 0, async_op=is_async),
        }
        return calls[kind.removesuffix(BF16)], count * width

    def framing(self, elements: int) -> tuple[float, float]:
        """Interface bytes for each payload byte sent, and Gbit/s on the link, of real steps that send whole gradients."""
        if self.ranks.world_size == 1:
            return 1.0, 1.0
        is_gloo = torch.distributed.get_backend() == "gloo"
        whole = sent_bytes("all_reduce", 4 * elements, self.ranks.world_size, is_gloo)
        trainer = SyntheticTraining(STRATEGIES["zero0"], self.job, self.ranks)
        trainer.step()
        sent, seconds = self._sent(trainer.step, LARGE_STEPS)
        del trainer
        gc.collect()
        factor = sent / whole
        if not self._has_own_counter or not 1.0 <= factor <= 1.5:
            factor = tcp_bytes_per_payload_byte() if is_gloo else 1.0
        return factor, whole * factor * 8e-9 / seconds

    @property
    def _has_own_counter(self) -> bool:
        """Not where several ranks of a machine send through one interface."""
        return self.ranks.local_world_size == 1

    def bytes_beside(self, kinds: Iterable[str], factor: float) -> dict[str, float]:
        """Interface bytes of a collective beside those of its payload: from messages that one frame holds."""
        if not self._has_own_counter:
            return {}
        is_gloo = torch.distributed.get_backend() == "gloo"
        found = {}
        for kind in kinds:
            call, payload = self._call(kind, SMALL_BYTES)
            call()
            sent, _ = self._sent(call, SMALL_CALLS)
            handed_over = sent_bytes(
                kind.removesuffix(BF16), payload, self.ranks.world_size, is_gloo
            )
            found[kind] = max(0.0, sent - handed_over * factor)
        return found

    def _sent(self, call: Callable[[], None], times: int) -> tuple[float, float]:
        """Bytes that a rank's interface sends in a call, and the seconds that it takes; means over the ranks."""
        counter = _sent_bytes_of(gloo_interface())
        dist.barrier()
        before, started = counter(), time.perf_counter()
        for _ in range(times):
            call()
        self._synchronise()
        seconds = (time.perf_counter() - started) / times
        time.sleep(SETTLED_SECONDS)  # the last acknowledgements
        sent = (counter() - before) / times
        return self._mean(sent), self._mean(seconds)

    def _mean(self, value: float) -> float:
        return statistics.mean(all_gather_object(self.ranks, value))

    def _synchronise(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)


def _without_extremes(seconds: Sequence[float]) -> float:
    """The mean of the middle four fifths."""
    cut = len(seconds) // 10
    return statistics.mean(sorted(seconds)[cut : len(seconds) - cut])


def _busy_seconds() -> float:
    """Of all cores of the machine, in whatever process: the network's work is done in the kernel."""
    times = psutil.cpu_times()
    return float(
        sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    )


def _sent_bytes_of(interface: str | None) -> Callable[[], int]:
    path = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
    return lambda: int(path.read_text()) if path.exists() else 0
