"""Ranks started once by the real launcher, that take one case after another."""

import os
import subprocess
import sys
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import REPOSITORY, WORKERS, free_port
from tests.rules.case import Case, Observation

STARTUP_SECONDS = 120.0
CASE_SECONDS = 120.0


class Refused(Exception):
    """DeepSpeed, torch or our engine raised."""


class RanksOfTest:
    """A context manager: the ranks run from its begin to its end."""

    def __init__(self, folder: Path, ranks: int = 2) -> None:
        self.log = folder / "ranks.log"
        self.ranks = ranks
        self._seen: dict[str, list[Observation | str]] = {}

    def __enter__(self) -> Self:
        self.listener = Listener(("127.0.0.1", 0))
        launcher = Path(sys.executable).with_name("deepspeed")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(str(launcher), "--num_accelerators", str(self.ranks)),
                    *("--master_port", str(free_port())),
                    str(WORKERS / "observations.py"),
                    *("--listener", str(self.listener.address[1])),
                ],
                cwd=REPOSITORY,
                env=os.environ
                | {"DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.listener._listener._socket.settimeout(STARTUP_SECONDS)  # type: ignore[attr-defined]
        self.connection: Connection = self.listener.accept()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.connection.send(None)
            self.process.wait(60)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
        self.connection.close()
        self.listener.close()

    def every(self, case: Case) -> list[Observation | str]:
        """What each rank saw, or said when it refused."""
        key = repr(case)
        if key not in self._seen:
            self.connection.send(case)
            if not self.connection.poll(CASE_SECONDS):
                raise AssertionError(f"{case}: no answer\n{self.log.read_text()[-4000:]}")
            try:
                self._seen[key] = self.connection.recv()
            except EOFError:
                said = self.log.read_text()[-4000:]
                raise AssertionError(f"{case}: the ranks died\n{said}") from None
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
