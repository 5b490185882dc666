"""Leaving when asked: a rank notices SIGTERM, SIGINT and SIGUSR1, and has so many seconds to write a checkpoint and go.

SLURM sends SIGUSR1 where `sbatch --signal=USR1@120` asks for a warning, and SIGTERM when the time is up or the job is
cancelled. Needs no torch.
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

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LEAVE_FILE = "leave"
"""In a run's folder: `yolo train` asks with it, since no signal of its reaches the other hosts."""
LOOK_SECONDS = 1.0
SUPERVISOR = "YOLO_SUPERVISOR"
"""Environment variable: the process id of `yolo train`, where it runs on the same host."""
WITHOUT_SUPERVISOR = "`yolo train`, which started this rank, is gone"


class GracefulStop(Exception):
    """All ranks have written a checkpoint and parted, because somebody asked."""


class PreemptionHandler:
    """Whether this rank was asked to leave."""

    def __init__(self, run_path: Path, is_main: bool, seconds: float) -> None:
        self.reason = ""
        """What asked: a signal's name, or `yolo train`."""
        self.is_fulfilled = False
        """Whether nothing is left that this rank could lose: it may take its time to go."""
        self._seconds = seconds
        self._file = run_path / LEAVE_FILE if is_main else None
        self._next_look = 0.0

    @classmethod
    def listen(cls, run_path: Path, is_main: bool, seconds: float) -> "PreemptionHandler":
        """Notice signals from now on; who has not left `seconds` after the first is ended, and after a second Ctrl-C at once.

        Python runs a handler only between two of the main thread's own instructions, which may be a collective's
        length away. The C handler writes the signal's number into a pipe at once, and a thread reads it.
        Only one of them, in the main thread, and before any worker process is forked.
        """
        request = cls(run_path, is_main, seconds)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for number in SIGNALS:
            signal.signal(number, _noticed)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_be_a_worker)
        threading.Thread(
            target=request._watch, args=(reading,), name="leave request", daemon=True
        ).start()
        return request

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
                    f"{self.reason} asked this rank to leave, and it has not within checkpoint.leave_seconds "
                    f"{self._seconds:g}: ended without a checkpoint of where it stands",
                    RANKS_LOST,
                )


def supervisor_handle() -> int | None:
    """A file descriptor that becomes readable when `yolo train` ends; None where it runs on another host, or never ran.

    Raises ProcessLookupError where it has ended already.
    """
    said = os.environ.get(SUPERVISOR, "")
    if not said.isdecimal():
        return None
    handle = os.pidfd_open(int(said))
    if int(said) not in [process.pid for process in psutil.Process().parents()]:
        raise ProcessLookupError(f"{said} is another process by now")
    return handle


def _noticed(number: int, frame: FrameType | None) -> None:
    """A handler must stand there for the C one to write into the pipe."""


def _end(why: str, code: int) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    print(f"yolo: rank {rank}: {why}", file=sys.stderr, flush=True)
    os._exit(code)


def _be_a_worker() -> None:
    """In a process forked from a rank: signals are the rank's to answer, whom this one serves to the end.

    SLURM sends a signal to every process of a job. SIGTERM ends a worker when its own rank sends it, and from nobody
    else.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_obey_the_rank, name="leave request", daemon=True).start()


def _obey_the_rank() -> None:
    while True:
        sent = signal.sigwaitinfo([signal.SIGTERM])
        if sent.si_pid == os.getppid():
            os._exit(0)
