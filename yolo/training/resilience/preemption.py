"""Preemption: on SIGTERM, SIGINT, SIGUSR1 or SIGHUP, a rank writes a checkpoint and stops, within a given time.

SLURM sends SIGUSR1 if `sbatch --signal=B:USR1@120` requests a warning, and SIGTERM when the time is up or the job is
cancelled. The kernel sends SIGHUP when a terminal is closed, or the ssh connection that it belongs to. Needs no torch.
"""

import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

from yolo.exit_codes import RANKS_LOST, STOPPED

LEAVE_FILE = "leave"
"""File in a run's folder: the stop request of `yolo train`, whose signals do not reach the other hosts."""
LOOK_SECONDS = 1.0
SUPERVISOR = "YOLO_SUPERVISOR"
"""Environment variable: the process id of `yolo train`, if it runs on the same host."""
WITHOUT_SUPERVISOR = "`yolo train`, which started this rank, is gone"


def stop_signals() -> list[signal.Signals]:
    """The signals that ask this process to stop: not SIGHUP if it is ignored already, as under nohup(1)."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return numbers if is_ignored else [*numbers, signal.SIGHUP]


class GracefulStop(Exception):
    """All ranks have written a checkpoint and shut down, as requested."""


class PreemptionHandler:
    """Whether this rank was asked to stop."""

    def __init__(self, run_path: Path, is_main: bool, seconds: float) -> None:
        self.reason = ""
        """Source of the request: a signal's name, or `yolo train`."""
        self.is_fulfilled = False
        """Whether this rank has nothing left to lose: the time limit is off."""
        self._seconds = seconds
        self._file = run_path / LEAVE_FILE if is_main else None
        self._next_look = 0.0

    @classmethod
    def listen(cls, run_path: Path, is_main: bool, seconds: float) -> "PreemptionHandler":
        """Watch for signals from now on; end the process `seconds` after the first one, or at a second Ctrl-C.

        Python runs a handler only between two instructions of the main thread, and a collective may delay the next one for
        long. The C handler writes the signal's number into a pipe at once, and a thread reads it. To be called once, in the
        main thread, before any worker process is forked.
        """
        handler = cls(run_path, is_main, seconds)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for number in stop_signals():
            signal.signal(number, _ignore)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_reset_in_worker)
        threading.Thread(
            target=handler._watch, args=(reading,), name="preemption", daemon=True
        ).start()
        return handler

    def is_requested(self) -> bool:
        """Whether this rank got a signal, or `yolo train` asks (which the main rank looks for once a second)."""
        if not self.reason and self._file is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if self._file.exists():
                self.reason = "yolo train"
        return bool(self.reason)

    def _watch(self, signals: int) -> None:
        watched, deadline, interrupts = [signals], None, 0
        try:
            supervisor = supervisor_handle()
        except OSError:
            _end(WITHOUT_SUPERVISOR, RANKS_LOST)
        if supervisor is not None:
            watched.append(supervisor)
        while True:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select(watched, [], [], wait)
            if supervisor in ready:
                _end(WITHOUT_SUPERVISOR, RANKS_LOST)
            if signals in ready:
                numbers = os.read(signals, 64)
                if deadline is None:
                    self.reason = signal.Signals(numbers[0]).name
                    deadline = time.monotonic() + self._seconds
                interrupts += numbers.count(signal.SIGINT)
                if interrupts > 1:
                    _end("stopped by a second Ctrl-C", STOPPED)
            if deadline is not None and time.monotonic() >= deadline:
                if self.is_fulfilled:
                    deadline = None
                    continue
                _end(
                    f"{self.reason} asked this rank to stop, and it did not within checkpoint.leave_seconds "
                    f"{self._seconds:g}: ended without a last checkpoint",
                    RANKS_LOST,
                )


def supervisor_handle() -> int | None:
    """A file descriptor that becomes readable when `yolo train` ends; None if it runs on another host, or did not start us.

    Raises ProcessLookupError if it has ended already.
    """
    pid = os.environ.get(SUPERVISOR, "")
    if not pid.isdecimal():
        return None
    handle = os.pidfd_open(int(pid))
    if int(pid) not in [process.pid for process in psutil.Process().parents()]:
        raise ProcessLookupError(f"{pid} is another process by now")
    return handle


def _ignore(number: int, frame: FrameType | None) -> None:
    """Python needs a handler, or the C handler does not write into the pipe."""


def _end(why: str, code: int) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    print(f"yolo: rank {rank}: {why}", file=sys.stderr, flush=True)
    os._exit(code)


def _reset_in_worker() -> None:
    """In a process forked from a rank: ignore signals, which the rank handles while it still needs this process.

    SLURM sends a signal to every process of a job. SIGTERM ends a worker only if its own rank sends it.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_stop_on_sigterm_of_parent, name="preemption", daemon=True).start()


def _stop_on_sigterm_of_parent() -> None:
    while True:
        sent = signal.sigwaitinfo([signal.SIGTERM])
        if sent.si_pid == os.getppid():
            os._exit(0)
