"""Run MPI's nonblocking operations: one thread completes them, and MPI is never called by two threads at once.

MPI's own waits spin and take a whole core, which the ranks need to compute. So this thread tests what is outstanding, and
sleeps in between: briefly at first, then for longer. It also notices what does not end in time, which MPI never does.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mpi4py import MPI

EAGER_SECONDS = 0.0005
"""After progress, the thread only yields for this long: small messages end within it."""
SLEEP_SECONDS = 0.0001


class MPIWork(dist.Work):
    """A running operation: some requests to MPI, and what to do when they are complete."""

    def __init__(
        self,
        name: str,
        requests: Sequence[MPI.Request],
        finish: Callable[[], Any],
        timeout: timedelta,
    ) -> None:
        super().__init__()
        self.name = name
        self.requests = list(requests)
        self.finish = finish
        """Copies results to their tensors, and returns them. Holds the buffers that MPI uses."""
        self.seconds = timeout.total_seconds()
        self.deadline = time.monotonic() + self.seconds
        self.statuses = [MPI.Status() for _ in self.requests]
        self._ended = threading.Event()
        self._future: torch.futures.Future[Any] = torch.futures.Future()
        self._error: Exception | None = None
        self._result: Any = None

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait for its end. Raises DistBackendError if it failed or did not end in time."""
        seconds = timeout.total_seconds() if timeout else 0.0
        if not self._ended.wait(seconds if seconds > 0 else None):
            raise _timed_out(self.name, seconds)
        if self._error is not None:
            raise self._error
        return True

    def get_future(self) -> Any:
        """torch's future, whose value is the list of the result's tensors."""
        return self._future

    def is_completed(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def is_success(self) -> bool:
        """Whether it has ended without an error."""
        return self._ended.is_set() and self._error is None

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

    def end(self, error: Exception | None = None) -> None:
        """Tell those that wait."""
        if error is None:
            try:
                self._result = self.finish()
            except Exception as failed:
                error = failed
        self._error = error
        self._ended.set()
        if error is None:
            self._future.set_result(self._result)
        else:
            self._future.set_exception(error)


class MPIProgress:
    """What is outstanding in this process, in all its groups."""

    def __init__(self) -> None:
        self.mpi = threading.Lock()
        """Held while MPI is called."""
        self.has_failed = False
        """Whether an operation failed or did not end: then MPI cannot be finalized."""
        self._outstanding: list[MPIWork] = []
        self._abandoned: list[MPIWork] = []
        """Too late: MPI may still write to their buffers."""
        self._is_busy = threading.Event()
        threading.Thread(target=self._run, name="mpi", daemon=True).start()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is outstanding, nor was abandoned."""
        return not (self._outstanding or self.has_failed)

    def start(
        self,
        name: str,
        start: Callable[[], Sequence[MPI.Request]],
        finish: Callable[[], Any],
        timeout: timedelta,
    ) -> MPIWork:
        """Call `start`, which starts requests; `finish` is called when they are complete."""
        with self.mpi:
            work = MPIWork(name, start(), finish, timeout)
            self._outstanding.append(work)
        self._is_busy.set()
        return work

    def _run(self) -> None:
        yields_until = 0.0
        while True:
            if not self._outstanding:
                self._is_busy.clear()
                if not self._outstanding:
                    self._is_busy.wait()
                yields_until = time.monotonic() + EAGER_SECONDS
            ended = self._ended()
            now = time.monotonic()
            for work, error in ended:
                work.end(error)
                yields_until = now + EAGER_SECONDS
            if not ended:
                time.sleep(0 if now < yields_until else SLEEP_SECONDS)

    def _ended(self) -> list[tuple[MPIWork, Exception | None]]:
        """Take out what has ended, with its error."""
        ended: list[tuple[MPIWork, Exception | None]] = []
        with self.mpi:
            for work in self._outstanding:
                try:
                    if MPI.Request.Testall(work.requests, work.statuses):
                        ended.append((work, None))
                    elif time.monotonic() > work.deadline:
                        self._abandoned.append(work)
                        ended.append((work, _timed_out(work.name, work.seconds)))
                except MPI.Exception as error:
                    self._abandoned.append(work)
                    ended.append((work, dist.DistBackendError(f"MPI: {work.name}: {error}")))
            taken = {id(work) for work, _ in ended}
            self._outstanding = [work for work in self._outstanding if id(work) not in taken]
            self.has_failed = bool(self._abandoned)
        return ended


def _timed_out(name: str, seconds: float) -> dist.DistBackendError:
    return dist.DistBackendError(f"MPI: {name} did not end within {seconds:g} s")
