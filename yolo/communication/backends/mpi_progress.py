"""Run MPI's nonblocking operations: MPI is never called by two threads at once, and nobody waits within it.

MPI's own waits spin: they take a whole core, which the ranks need to compute, and never notice that a rank is gone. Here
whoever waits tests what is outstanding, yields for a moment and sleeps then. A thread does it for operations that nobody
waits for.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from yolo.communication.backends.mpi_library import MPI

YIELD_SECONDS = 0.0002
"""After progress, a waiting thread only yields for this long: small messages end within it."""
SLEEP_SECONDS = 0.00005
"""The kernel adds about as much (timer slack)."""
BACKGROUND_SECONDS = 0.001
"""The thread's sleep while another thread waits."""


class MPIFuture(torch.futures.Future[Any]):
    """A future that a callback of another one may wait for, as PowerSGD's do: these run in the thread that tests."""

    def __init__(self, work: "MPIWork", progress: "MPIProgress") -> None:
        has_gpu = torch.cuda.is_initialized()
        super().__init__(devices=[torch.cuda.current_device()] if has_gpu else None)
        self._work = work
        self._progress = progress

    def wait(self) -> Any:
        """Wait for the list of the result's tensors. Raises the operation's error."""
        if self._progress.is_in_callback:
            self._progress.wait(self._work, float("inf"))
        return super().wait()


class MPIWork(dist.Work):
    """A running operation: some requests to MPI, and what to do when they are complete."""

    def __init__(
        self,
        name: str,
        requests: Sequence[MPI.Request],
        finish: Callable[[], Any],
        timeout: timedelta,
        progress: "MPIProgress",
    ) -> None:
        super().__init__()
        self.name = name
        self.requests = list(requests)
        self.statuses = [MPI.Status() for _ in self.requests]
        self.seconds = timeout.total_seconds()
        self.deadline = time.monotonic() + self.seconds
        self._finish = finish
        """Copies results to their tensors, and returns them. Holds the buffers that MPI uses."""
        self._progress = progress
        self._future = MPIFuture(self, progress)
        self._result: Any = None
        self._error: Exception | None = None
        self._has_ended = False

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait for its end. Raises DistBackendError if it failed or did not end in time."""
        seconds = timeout.total_seconds() if timeout and timeout > timedelta(0) else float("inf")
        if not self._progress.wait(self, seconds):
            raise timed_out(self.name, seconds)
        if self._error is not None:
            raise self._error
        return True

    def get_future(self) -> Any:
        """torch's future, whose value is the list of the result's tensors."""
        return self._future

    def is_completed(self) -> bool:
        """Whether it has ended."""
        return self._has_ended

    def is_success(self) -> bool:
        """Whether it has ended without an error."""
        return self._has_ended and self._error is None

    def exception(self) -> Exception | None:
        """Its error, if it failed."""
        return self._error

    def result(self) -> Any:
        """The list of the result's tensors."""
        self.wait()
        return self._result

    def synchronize(self) -> None:
        """Wait for its end."""
        self.wait()

    def source_rank(self) -> int:
        """The rank in the group that sent what was received."""
        return self.statuses[0].Get_source()

    _source_rank = source_rank

    def end(self, error: Exception | None) -> None:
        """Take over the result, and tell those that wait."""
        try:
            self._result = None if error else self._finish()
        except Exception as failed:
            error = failed
        self._error = error
        self._has_ended = True
        if error is None:
            self._future.set_result(self._result)
        else:
            self._future.set_exception(error)


class MPIProgress:
    """What is outstanding in this process, in all its groups."""

    def __init__(self) -> None:
        self.mpi = threading.Lock()
        """Held while MPI is called."""
        self._outstanding: list[MPIWork] = []
        self._abandoned: list[MPIWork] = []
        """What failed or did not end in time. MPI may still write to its buffers."""
        self._waiting: list[MPIWork] = []
        """What threads wait for. A list's methods need no lock."""
        self._has_work = threading.Event()
        self._callbacks = threading.local()
        threading.Thread(target=self._run, name="mpi", daemon=True).start()

    @property
    def is_idle(self) -> bool:
        """Whether everything has ended well, so that MPI may be finalized."""
        return not (self._outstanding or self._abandoned)

    @property
    def is_in_callback(self) -> bool:
        """Whether this thread runs what follows an operation, and does not test meanwhile."""
        return getattr(self._callbacks, "depth", 0) > 0

    def start(
        self,
        name: str,
        start: Callable[[], Sequence[MPI.Request]],
        finish: Callable[[], Any],
        timeout: timedelta,
    ) -> MPIWork:
        """Call `start`, which starts requests; `finish` is called when they are complete."""
        with self.mpi:
            work = MPIWork(name, start(), finish, timeout, self)
            self._outstanding.append(work)
        self._has_work.set()
        return work

    def wait(self, work: MPIWork, seconds: float) -> bool:
        """Wait until it has ended, at most so long; returns whether it has."""
        began = active = time.monotonic()
        self._waiting.append(work)
        try:
            while not work.is_completed():
                active, now = self._poll(active)
                if now - began > seconds:
                    break
        finally:
            self._waiting.remove(work)
        return work.is_completed()

    def _run(self) -> None:
        active = 0.0
        while True:
            if not self._outstanding:
                self._has_work.clear()
                if not self._outstanding:
                    self._has_work.wait()
                active = time.monotonic()
            if self._waiting:
                time.sleep(BACKGROUND_SECONDS)
            active, _ = self._poll(active)

    def _poll(self, active: float) -> tuple[float, float]:
        """End what is complete; without anything, pause. Takes and returns the time of the last progress; and the time now."""
        if ended := self._take():
            self._callbacks.depth = getattr(self._callbacks, "depth", 0) + 1
            try:
                ended[0].end(ended[1])
            finally:
                self._callbacks.depth -= 1
        now = time.monotonic()
        if ended:
            return now, now
        if now - active < YIELD_SECONDS:
            os.sched_yield()
        else:
            time.sleep(SLEEP_SECONDS)
        return active, now

    def _take(self) -> tuple[MPIWork, Exception | None] | None:
        """Take out one operation that has ended, with its error. Only one: callbacks of the first may wait for the next."""
        with self.mpi:
            for work in self._outstanding:
                error: Exception | None = None
                try:
                    if not MPI.Request.Testall(work.requests, work.statuses):
                        if time.monotonic() <= work.deadline:
                            continue
                        error = timed_out(work.name, work.seconds)
                except MPI.Exception as failed:
                    error = dist.DistBackendError(f"MPI's {work.name} failed: {failed}")
                self._outstanding.remove(work)
                if error is not None:
                    self._abandoned.append(work)
                return work, error
        return None


def timed_out(name: str, seconds: float) -> dist.DistBackendError:
    """An error in gloo's words, which others look for."""
    return dist.DistBackendError(f"Timed out waiting {seconds * 1000:.0f}ms for MPI's {name}")
