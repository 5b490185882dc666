"""Ranks started once, that take one case after another."""

import contextlib
import subprocess
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, WORKERS, launcher_command
from tests.forking.server import ForkedProcess
from tests.recipe.rules.against_deepspeed.case import Case, Observation

STARTUP_SECONDS = 120.0
CASE_SECONDS = 300.0
"""The first that offloads an optimizer has DeepSpeed compile its CPU Adam."""


class Refused(Exception):
    """DeepSpeed, torch or our engine raised."""


class RanksDied(AssertionError):
    """One of them ended, or waits for the others for ever."""


class RanksOfTest:
    """A context manager: the ranks run from its begin to its end."""

    def __init__(self, folder: Path, ranks: int = 2) -> None:
        self.log = folder / "ranks.log"
        self.ranks = ranks
        self._seen: dict[str, list[Observation | str]] = {}

    def __enter__(self) -> Self:
        self._start()
        return self

    def _start(self) -> None:
        self.listener = Listener(("127.0.0.1", 0))
        script = (str(WORKERS / "observations.py"), "--listener", str(self.listener.address[1]))
        command = launcher_command(self.ranks, *script)
        self.process = ForkedProcess(command, REPOSITORY, ON_A_PROCESSOR, self.log)
        self.listener._listener._socket.settimeout(STARTUP_SECONDS)  # type: ignore[attr-defined]
        self.connection: Connection = self.listener.accept()

    def _stop(self) -> None:
        self.process.kill_all()
        self.connection.close()
        self.listener.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.connection.send(None)
            self.process.wait(60)
        self._stop()

    def every(self, case: Case) -> list[Observation | str]:
        """What each rank saw, or said when it refused."""
        key = repr(case)
        if key not in self._seen:
            self.connection.send(case)
            try:
                if not self.connection.poll(CASE_SECONDS):
                    raise EOFError
                self._seen[key] = self.connection.recv()
            except (EOFError, ConnectionError):
                said = self.log.read_text()[-4000:]
                self._stop()
                self._start()  # for the next case
                raise RanksDied(f"{case}: the ranks died or hang\n{said}") from None
        return self._seen[key]

    def __call__(self, case: Case) -> Observation:
        """What all ranks saw; the first one's, where they differ in weights.

        Raises Refused where a rank could not take its steps.
        """
        seen = self.every(case)
        for one in seen:
            if isinstance(one, str):
                raise Refused(one)
        first = seen[0]
        assert isinstance(first, Observation)
        return first
