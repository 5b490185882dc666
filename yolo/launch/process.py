"""One start of the launcher: start it, watch it and all its descendants until they have ended, or stop them."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from yolo.errors import LaunchError
from yolo.exit_codes import LEFT
from yolo.launch.command import Launch
from yolo.launch.parent_death import adopt_orphans, die_with_parent
from yolo.training.resilience.preemption import LEAVE_FILE, SUPERVISOR
from yolo.training.resilience.rank_status import RankStatusFile, records_of

POLL_SECONDS = 0.1
STATUS_POLL_SECONDS = 1.0
SILENT_SECONDS = 3.0
"""Ranks write a heartbeat once a second. After this time without one, a rank hangs or its host is gone."""
ENDED_SECONDS = 2.0
"""Time for the launcher, which polls once a second, to notice that all ranks have ended."""
ORPHAN_SECONDS = 1.0
"""Time for ranks to end after their launcher was killed: the kernel ends them (PR_SET_PDEATHSIG)."""
STOP_SECONDS = 3.0
"""Time for the launcher to end its processes on other hosts, before all processes here are killed."""


class LauncherProcess:
    """A running launcher with all its descendants on this host."""

    def __init__(self, launch: Launch, run_path: Path, owns_ranks: bool) -> None:
        """Start it. Raises LaunchError if there is no launcher.

        `owns_ranks`: whether the ranks will be its descendants, so that they can see this process end. It gets a session of its own, so that Ctrl-C in a terminal reaches only `yolo train`. It ignores signals that
        would end it before the ranks have stopped.
        """
        launcher = launch.command[0]
        if shutil.which(launcher) is None:
            raise LaunchError(
                f"{launcher}: no such program; `make setup` installs DeepSpeed's launcher, `make setup-mpi` MPI's"
            )
        adopt_orphans()
        self._unrelated = set(psutil.Process().children(recursive=True))
        """Earlier children of this process."""
        environment = os.environ | dict(launch.environment)
        if owns_ranks:
            environment[SUPERVISOR] = str(os.getpid())
        self._options: dict[str, Any] = {
            "env": environment,
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,
            "preexec_fn": _prepare,
        }
        self._process = psutil.Popen(launch.command, **self._options)
        self._launch = launch
        self._run_path = run_path
        self._next_status_poll = 0.0
        self._heartbeats: dict[int, tuple[float, float]] = {}
        """Per rank: its newest heartbeat, and when this process first saw it."""
        self._failed_at: float | None = None
        self.was_stopped = False
        """Whether it was stopped because no rank made progress."""

    def wait(self, on_poll: Callable[[], None]) -> int:
        """Wait until all its processes have ended; returns its exit code. Calls `on_poll` about ten times a second."""
        while self._process.poll() is None:
            on_poll()
            if self._is_stuck():
                self.was_stopped = True
                self.stop()
            time.sleep(POLL_SECONDS)
        deadline = time.monotonic() + ORPHAN_SECONDS
        while self._running() and (
            time.monotonic() < deadline or (self._run_path / LEAVE_FILE).exists()
        ):
            on_poll()
            time.sleep(POLL_SECONDS)
        self._kill()
        return int(self._process.returncode)

    def stop(self) -> None:
        """End it, its processes on other hosts, and all its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            if command := self._launch.stop_command:
                psutil.Popen(command, **self._options).wait(STOP_SECONDS)
            else:
                self._process.terminate()
                self._process.wait(STOP_SECONDS)
        self._kill()

    def _kill(self) -> None:
        while running := self._running():
            for process in running:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(running, timeout=STOP_SECONDS)

    def _running(self) -> list[psutil.Process]:
        """Its processes that still run. This process adopts orphans, so all of them are its descendants."""
        return [
            process
            for process in psutil.Process().children(recursive=True)
            if process not in self._unrelated and not self._has_ended(process)
        ]

    def _has_ended(self, process: psutil.Process) -> bool:
        """Also reaps an adopted orphan, which would stay a zombie otherwise."""
        try:
            has_ended = bool(process.status() == psutil.STATUS_ZOMBIE)
            if has_ended and process.pid != self._process.pid and process.ppid() == os.getpid():
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            return True
        return has_ended

    def _is_stuck(self) -> bool:
        """Whether a rank has failed, and each of the others has ended or writes no heartbeat any more.

        The launcher would wait for them: half a minute for a stopped rank, forever for a lost host.
        """
        now = time.monotonic()
        if now < self._next_status_poll:
            return False
        self._next_status_poll = now + STATUS_POLL_SECONDS
        ranks = [(rank, rank.exit) for rank in records_of(self._run_path, self._launch.port)]
        if all(ending is None or ending.code == LEFT for _, ending in ranks):
            return False
        running = [rank for rank, ending in ranks if ending is None]
        alive = [rank for rank in running if not self._is_silent(rank)]
        self._failed_at = self._failed_at or time.monotonic()
        patience = SILENT_SECONDS if running else ENDED_SECONDS
        return not alive and time.monotonic() - self._failed_at > patience

    def _is_silent(self, rank: RankStatusFile) -> bool:
        heartbeat, now = rank.heartbeat, time.monotonic()
        newest = heartbeat.heard if heartbeat else 0.0
        previous, since = self._heartbeats.get(rank.rank, (None, now))
        if newest != previous:
            self._heartbeats[rank.rank] = newest, now
            return False
        return now - since > SILENT_SECONDS


def _prepare() -> None:
    """Runs in the child process before it executes the launcher."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # `yolo train` gets them, and asks the ranks to stop
    # On SIGTERM, a launcher for several hosts ends its processes there.
    die_with_parent(signal.SIGTERM)
