"""One start of the launcher: begun, watched until it and all that it started are gone, or stopped."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from yolo.errors import LaunchError
from yolo.exit_codes import LEFT
from yolo.launch.command import Launch
from yolo.launch.parent_death import adopt_orphans, die_with_parent
from yolo.training.resilience.preemption import LEAVE_FILE, SUPERVISOR
from yolo.training.resilience.rank_status import RankStatusFile, records_of

POLL_SECONDS = 0.1
LOOK_SECONDS = 1.0
SILENT_SECONDS = 3.0
"""Ranks write where they stand once a second. A rank that does not is stopped, or its host is gone."""
ENDED_SECONDS = 2.0
"""For the launcher, which looks once a second, to see that all ranks have ended."""
ORPHAN_SECONDS = 1.0
"""For ranks to follow a launcher that was killed: the kernel does it (PR_SET_PDEATHSIG)."""
STOP_SECONDS = 3.0
"""For the launcher to end what it started on other hosts, before all is killed here."""


class LauncherProcess:
    """A running launcher with all its descendants on this host."""

    def __init__(self, launch: Launch, run_path: Path, is_one_node: bool) -> None:
        """Start it. Raises LaunchError where there is no launcher.

        In a session of its own, so that Ctrl-C in a terminal reaches `yolo train` alone; and with signals ignored that
        would end it before the ranks have left.
        """
        launcher = Path(launch.command[0])
        if not launcher.exists():
            raise LaunchError(
                f"{launcher}: no such program; `make setup` installs DeepSpeed's launcher"
            )
        adopt_orphans()
        self._others = set(psutil.Process().children(recursive=True))
        """Of this process, which have nothing to do with the launcher."""
        environment = os.environ | dict(launch.environment)
        if is_one_node:
            environment[SUPERVISOR] = str(os.getpid())
        self._process = psutil.Popen(
            launch.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_prepare,
        )
        self._run_path = run_path
        self._port = launch.port
        self._next_look = 0.0
        self._heard: dict[int, tuple[float, float]] = {}
        self._failed_at: float | None = None
        self.was_stopped = False
        """Whether it had to be, because nobody was left that worked."""

    def wait(self, meanwhile: Callable[[], None]) -> int:
        """Its exit code, once all that it started is gone; `meanwhile` is called about ten times a second."""
        while self._process.poll() is None:
            meanwhile()
            if self._is_hopeless():
                self.was_stopped = True
                self.stop()
            time.sleep(POLL_SECONDS)
        deadline = time.monotonic() + ORPHAN_SECONDS
        while self._left() and (time.monotonic() < deadline or self._are_leaving()):
            meanwhile()
            time.sleep(POLL_SECONDS)
        self._kill()
        return int(self._process.returncode)

    def stop(self) -> None:
        """End it and all that it started, soon."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._kill()

    def _kill(self) -> None:
        while left := self._left():
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=STOP_SECONDS)

    def _left(self) -> list[psutil.Process]:
        """What of it still runs: as this process adopts orphans, all are its descendants."""
        return [
            process
            for process in psutil.Process().children(recursive=True)
            if process not in self._others and not self._is_over(process)
        ]

    def _is_over(self, process: psutil.Process) -> bool:
        """Also takes note of the end of an orphan, as its parent would have: else it would stay as a zombie."""
        try:
            is_over = bool(process.status() == psutil.STATUS_ZOMBIE)
            if is_over and process.pid != self._process.pid and process.ppid() == os.getpid():
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            return True
        return is_over

    def _are_leaving(self) -> bool:
        return (self._run_path / LEAVE_FILE).exists()

    def _is_hopeless(self) -> bool:
        """Whether a rank has failed, and each of the others has ended too, or writes nothing any more.

        The launcher would wait for them: half a minute for a rank that is stopped, for ever for a host that is gone.
        """
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + LOOK_SECONDS
        records = records_of(self._run_path, self._port)
        endings = [record.ending for record in records]
        if not any(ending is not None and ending.code != LEFT for ending in endings):
            return False
        works = [
            record
            for record, ending in zip(records, endings, strict=True)
            if ending is None and not self._is_silent(record)
        ]
        self._failed_at = self._failed_at or time.monotonic()
        patience = SILENT_SECONDS if None in endings else ENDED_SECONDS
        return not works and time.monotonic() - self._failed_at > patience

    def _is_silent(self, record: RankStatusFile) -> bool:
        standing, now = record.standing, time.monotonic()
        heard = standing.heard if standing else 0.0
        before, since = self._heard.get(record.rank, (None, now))
        if heard != before:
            self._heard[record.rank] = heard, now
            return False
        return now - since > SILENT_SECONDS


def _prepare() -> None:
    """In the launcher's process, before it becomes the launcher."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # Over several hosts the launcher answers it by ending what it started there.
    die_with_parent(signal.SIGTERM)
