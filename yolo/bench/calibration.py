"""What one rank does to calibrate the planner: a step without the network, each strategy's own work, each collective.

Started on every host by the launcher; the first rank writes what was measured as one JSON file.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import deepspeed.comm as dist
import psutil
import torch

from yolo.bench.hushed import hushed_collectives
from yolo.bench.strategies import COMPUTE, STRATEGIES, Strategy
from yolo.bench.trainer import Job, Stopwatch, Trainer
from yolo.communication.framing import gloo_interface, tcp_bytes_per_payload_byte
from yolo.communication.wire import sent_share
from yolo.planner.collectives import BF16
from yolo.planner.local import strategy_key
from yolo.planner.prediction import expected_maximum
from yolo.planner.profile import Measurement, Point, Workload
from yolo.recipe import prepare
from yolo.recipe.sections.optimizer import ONE_BIT
from yolo.training.ranks import (
    Ranks,
    from_all,
    from_first,
    join,
    leave,
    local_world_size_from_launcher,
    world_size_from_launcher,
)

STEPS = 10
"""Timed of each strategy."""
SETTLE = 3
SETTLE_ALOUD = 2
"""Of a strategy, before it is hushed."""
LONGEST_SECONDS = 20.0
"""For one strategy; where steps take long, fewer are timed."""
ALL_STRATEGIES = (
    *("zero0", "zero0_bf16", "zero1", "zero2", "zero3_persistent", "ddp", "overlapped"),
    *("overlapped_bf16", "powersgd", "onebit_adam", "zero_one_adam", "onebit_lamb"),
    *("zero_one_adam_local", "local_steps", "local_steps_one_bit"),
)
SMALLEST_BYTES = 64
GROWTH = 4
"""From one size of a collective to the next."""
LONGEST_CALL_SECONDS = 4.0
"""A collective of a size that takes longer ends the series."""
READY_POINTS = 20
OTHER_ELEMENTS = 2**24
"""64 MiB, more than caches hold."""
BUSY_SECONDS = 0.2
"""To watch the cores, whose clock ticks every 10 ms."""
LARGE_STEPS = 3
SMALL_CALLS = 20
SMALL_BYTES = 1024
SETTLED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Timed:
    """Steps of one strategy on this rank."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Calibration:
    """The measurements of one rank; all methods are collective."""

    def __init__(self, job: Job, ranks: Ranks, tell: Callable[[str], None]) -> None:
        self.job = job
        self.ranks = ranks
        self.tell = tell
        self._ranks_here = self._ranks_on_this_machine()
        self._other_work = torch.zeros(OTHER_ELEMENTS, device=ranks.device)

    def measure(self, bandwidth_gbps: float | None) -> Measurement:
        """Everything, in the order in which it stands in a profile."""
        self.tell("computing alone")
        trainer = Trainer(COMPUTE, self.job, self.ranks)
        recipe = trainer.recipe
        elements = sum(parameter.numel() for parameter in trainer.model.parameters())
        before = self._steps(trainer)
        together = self._steps_together(trainer)
        parts = self._parts(trainer)
        ready = self._ready(trainer)
        del trainer
        gc.collect()
        local = self._local()
        trainer = Trainer(COMPUTE, self.job, self.ranks)
        computing = statistics.mean([before.median, self._steps(trainer).median])
        del trainer
        gc.collect()
        self.tell("collectives")
        collectives = self._collectives(elements)
        framing, sent_gbps = self._framing(elements)
        beside = self._bytes_beside(collectives, framing)
        scale = computing / sum(parts.values())
        assert recipe.train.micro_batch != "auto"
        micro_steps = recipe.train.gradient_accumulation_steps
        assert micro_steps != "auto"
        return Measurement(
            ranks=self.ranks.world_size,
            bandwidth_gbps=bandwidth_gbps or sent_gbps,
            wire_bytes_per_payload_byte=framing,
            wire_bytes_per_collective=beside,
            workload=Workload(
                variant=recipe.model.variant,
                classes=self.job.classes,
                image_size=recipe.model.image_size,
                micro_batch=recipe.train.micro_batch,
                dtype=recipe.precision.dtype,
            ),
            forward_seconds=self._mean(parts["forward"] * scale / micro_steps),
            backward_seconds=self._mean(parts["backward"] * scale / micro_steps),
            update_seconds=self._mean(parts["update"] * scale),
            jitter=self._jitter(before, together),
            ready=ready,
            local_seconds={key: self._mean(seconds - computing) for key, seconds in local.items()},
            collectives=collectives,
        )

    def _mean(self, value: float) -> float:
        return statistics.mean(from_all(self.ranks, value))

    def _spared(self, key: str, update_seconds: float) -> float:
        """Sharded optimizers step through the rank's own part only, which the planner knows."""
        is_sharded = key in ("stage1", "stage2", "stage3")
        return update_seconds * (1 - 1 / self.ranks.world_size) if is_sharded else 0.0

    # --- a rank's own work --------------------------------------------------------------------------------------

    def _steps(self, trainer: Trainer, is_hushed: bool = False) -> Timed:
        """Steps of a strategy, all ranks busy; a mean of its period counts as one."""
        quiet = hushed_collectives if is_hushed else nullcontext
        period = trainer.strategy.period
        with quiet():
            for _ in range(max(SETTLE, trainer.strategy.settle_steps)):
                trainer.step()
            self._synchronise()
            started = time.perf_counter()
            trainer.step()
            self._synchronise()
        fits = LONGEST_SECONDS / max(1e-6, time.perf_counter() - started)
        windows = max(3, min(STEPS, int(fits))) if period == 1 else 2
        windows = from_first(self.ranks, windows)
        seconds = []
        with quiet():
            for _ in range(windows):
                started = time.perf_counter()
                for _ in range(period):
                    trainer.step()
                self._synchronise()
                seconds.append((time.perf_counter() - started) / period)
        return Timed(seconds)

    def _steps_together(self, trainer: Trainer) -> Timed:
        """Steps that end for all at once, by the smallest of messages."""
        token = torch.zeros(1, device=self.ranks.device)
        dist.all_reduce(token)
        seconds = []
        for _ in range(2 * STEPS):
            started = time.perf_counter()
            trainer.step()
            dist.all_reduce(token)
            self._synchronise()
            seconds.append(time.perf_counter() - started)
        return Timed(seconds)

    def _jitter(self, alone: Timed, together: Timed) -> float:
        """The deviation that explains what waiting for the slowest rank adds to a step; the message itself is tiny."""
        if self.ranks.world_size == 1:
            return statistics.stdev(alone.seconds) / alone.median
        late = self._mean(together.median) - self._mean(alone.median)
        return max(0.0, late / self._mean(alone.median) / expected_maximum(self.ranks.world_size))

    def _synchronise(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)

    def _parts(self, trainer: Trainer) -> dict[str, float]:
        watch = Stopwatch(self.ranks.device)
        for _ in range(STEPS // 2):
            trainer.step(watch)
        return {part: seconds / (STEPS // 2) for part, seconds in watch.seconds.items()}

    def _ready(self, trainer: Trainer) -> list[tuple[float, float]]:
        """How the gradients of one micro step come in, by hooks: (share of backward, share of gradients)."""
        noted: list[tuple[float, int]] = []
        parameters = list(trainer.model.parameters())
        hooks = [
            parameter.register_post_accumulate_grad_hook(
                lambda p: noted.append((time.perf_counter(), p.numel()))
            )
            for parameter in parameters
        ]
        begun: list[float] = []
        backward = trainer.learner.backward

        def timed(loss: torch.Tensor) -> None:
            self._synchronise()
            begun.append(time.perf_counter())
            backward(loss)

        trainer.learner.backward = timed  # type: ignore[method-assign]
        curves = []
        for _ in range(SETTLE):
            noted.clear()
            begun.clear()
            trainer.step()
            start = begun[-1]
            last_micro_step = noted[-len(parameters) :]
            sizes = list(accumulate(size for _, size in last_micro_step))
            end = last_micro_step[-1][0]
            curves.append(
                [
                    ((at - start) / (end - start), done / sizes[-1])
                    for (at, _), done in zip(last_micro_step, sizes, strict=True)
                ]
            )
        trainer.learner.backward = backward  # type: ignore[method-assign]
        for hook in hooks:
            hook.remove()
        middle = curves[len(curves) // 2]
        chosen = [middle[round(k * (len(middle) - 1) / READY_POINTS)] for k in range(READY_POINTS)]
        return [(0.0, 0.0), *((min(1.0, at), min(1.0, done)) for at, done in chosen), (1.0, 1.0)]

    def _local(self) -> dict[str, float]:
        """A hushed step under each strategy."""
        found = {}
        for strategy in self._strategies():
            self.tell(strategy.label)
            recipe = self.job.under(strategy, self.ranks)
            key = "ddp" if strategy.ddp_bucket_mb else strategy_key(recipe)
            dist.barrier()
            trainer = Trainer(strategy, self.job, self.ranks, is_hushed=True)
            for _ in range(
                SETTLE_ALOUD
            ):  # stage 3 compares what it has seen of the network between ranks
                trainer.step()
            steps = self._steps(trainer, is_hushed=True)
            found[key] = steps.median
            del trainer
            gc.collect()
        return found

    def _strategies(self) -> list[Strategy]:
        """Those that the recipe can be put under: SGD has no 1-bit form."""
        recipe = prepare(
            self.job.recipe, self.job.overrides, self.ranks.world_size, self.ranks.local_world_size
        ).resolved.recipe
        if self.ranks.world_size == 1:
            return []
        wanted = [STRATEGIES[name] for name in ALL_STRATEGIES]
        if recipe.precision.dtype == "fp16":
            left_out = (*ONE_BIT, "powersgd", "sync_every")
            wanted = [
                s
                for s in wanted
                if not any(word in text for text in s.overrides for word in left_out)
            ]
        return wanted

    # --- the network --------------------------------------------------------------------------------------------

    def _collectives(self, elements: int) -> dict[str, list[Point]]:
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
        """The slowest rank's median seconds, as a step finds them, and the share of a rank's core that was busy.

        A step has computed before: what it sends lies in no cache, and nobody has been waiting for a message.
        """
        started = time.perf_counter()
        call()
        self._synchronise()
        once = time.perf_counter() - started
        repeats = from_first(self.ranks, round(max(5.0, min(25.0, 0.3 / once))))
        seconds: list[float] = []
        for _ in range(repeats):
            self._other_work.add_(1.0)
            dist.barrier()
            started = time.perf_counter()
            call()
            self._synchronise()
            seconds.append(time.perf_counter() - started)
        dist.barrier()
        busy, begun = _busy_seconds(), time.perf_counter()
        for _ in range(from_first(self.ranks, round(max(2.0, min(50.0, BUSY_SECONDS / once))))):
            call()
        self._synchronise()
        elapsed = time.perf_counter() - begun
        cores = (_busy_seconds() - busy) / elapsed / self._ranks_here
        available = min(1.0, (psutil.cpu_count() or 1) / self._ranks_here)
        figures = from_all(self.ranks, (statistics.median(seconds), cores / available))
        slowest = max(
            seconds for seconds, _ in figures
        )  # whose result the next step of the work needs
        share = statistics.mean(share for _, share in figures)
        return slowest, min(1.0, max(0.0, share))

    def _ranks_on_this_machine(self) -> int:
        """Emulated hosts share one kernel: their boot is the same."""
        boot = Path("/proc/sys/kernel/random/boot_id")
        own = boot.read_text() if boot.exists() else str(self.ranks.rank)
        return from_all(self.ranks, own).count(own)

    def _call(self, kind: str, size: int) -> tuple[Callable[[], None], int]:
        """A function that runs the collective once, and the payload's bytes: `size`, rounded so that ranks share it."""
        ranks, device = self.ranks.world_size, self.ranks.device
        dtype = torch.bfloat16 if kind.endswith(BF16) else torch.float32
        width = torch.finfo(dtype).bits // 8
        count = max(1, size // width // ranks) * ranks
        whole = torch.ones(count, dtype=dtype, device=device)
        part = torch.ones(count // ranks, dtype=dtype, device=device)
        result = torch.ones_like(whole)
        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda: dist.all_reduce(whole),
            "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
            "reduce": lambda: dist.reduce(whole, 0),
            "all_to_all": lambda: dist.all_to_all_single(result, whole),
            "broadcast": lambda: dist.broadcast(whole, 0),
        }
        return calls[kind.removesuffix(BF16)], count * width

    def _framing(self, elements: int) -> tuple[float, float]:
        """Interface bytes for each payload byte sent, and Gbit/s on the link, of real steps that send whole gradients."""
        if self.ranks.world_size == 1:
            return 1.0, 1.0
        is_gloo = torch.distributed.get_backend() == "gloo"
        whole = 4 * elements * sent_share("all_reduce", self.ranks.world_size, is_gloo)
        trainer = Trainer(STRATEGIES["zero0"], self.job, self.ranks)
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

    def _bytes_beside(self, kinds: Iterable[str], factor: float) -> dict[str, float]:
        """Interface bytes of a collective beside those of its payload: from messages that one frame holds."""
        if not self._has_own_counter:
            return {}
        is_gloo = torch.distributed.get_backend() == "gloo"
        found = {}
        for kind in kinds:
            call, payload = self._call(kind, SMALL_BYTES)
            call()
            sent, _ = self._sent(call, SMALL_CALLS)
            share = sent_share(kind.removesuffix(BF16), self.ranks.world_size, is_gloo)
            found[kind] = max(0.0, sent - payload * share * factor)
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


def _busy_seconds() -> float:
    """Of all cores of the machine, in whatever process: the network's work is done in the kernel."""
    times = psutil.cpu_times()
    return float(
        sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    )


def _sent_bytes_of(interface: str | None) -> Callable[[], int]:
    path = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
    return lambda: int(path.read_text()) if path.exists() else 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--bandwidth-gbps", type=float, help="of a node's link, where known")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    job = Job(options.recipe, tuple(options.overrides), options.classes)
    local = local_world_size_from_launcher()
    ranks = join(
        prepare(job.recipe, job.overrides, world_size_from_launcher(), local).resolved.recipe
    )

    def tell(what: str) -> None:
        if ranks.is_first:
            print(f"calibrating: {what}", flush=True)

    measured = Calibration(job, ranks, tell).measure(options.bandwidth_gbps)
    if ranks.is_first:
        temporary = options.out.with_name(f".{options.out.name}.part")
        temporary.write_text(json.dumps(measured.model_dump(mode="json")), encoding="utf-8")
        temporary.replace(options.out)
    leave()


if __name__ == "__main__":
    main()
