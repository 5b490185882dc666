"""Processes forked from a server of multiprocessing's that has torch and DeepSpeed imported; see `popen`."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests.forking.popen import fork_python, program_in, run_program

REPOSITORY = Path(__file__).parents[2]
UNDRAWN = "YOLO_UNDRAWN"
"""In the environment of what is forked: its charts stay empty, which are a third of a short run's work."""


class ForkedProcess:
    """A command of this interpreter, forked; to be used as a `subprocess.Popen` with text in `stdout`.

    What it prints goes to a file, so that it never waits for a reader. It leads a session of its own.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        output: Path,
    ) -> None:
        self.output = output
        self._process = context().Process(
            target=_run, args=(list(command), str(folder), dict(environment), str(output))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Minus a signal's number where that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0, self.said)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it printed, once it has ended."""
        self.wait(timeout)
        return self.said, None

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def kill_all(self, seconds: float = 10.0) -> None:
        """Its whole session; what it started ends with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join(seconds)


@cache
def context() -> ForkServerContext:
    """The server is started with the first process."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.forking.preloaded"])
    before = dict(os.environ)
    os.environ |= {
        "PYTHONPATH": str(REPOSITORY),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",  # a pool of threads would not survive a fork
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # as yolo.train sets it; read when torch is loaded
    }
    try:
        multiprocessing.forkserver.ensure_running()  # type: ignore[attr-defined]
    finally:
        os.environ.clear()
        os.environ |= before
    return server


def _run(command: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    program = program_in(command)
    assert program is not None, command
    os.setsid()
    os.chdir(folder)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(handle, standard)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(
        "fork", force=True
    )  # a started interpreter's, not this server's
    fork_python()
    run_program(program, environment)


def run_forked(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    output: Path,
    timeout: float = 300.0,
) -> "subprocess.CompletedProcess[str]":
    """As `subprocess.run` with output and errors in `stdout`; all of it is killed after `timeout` seconds."""
    process = ForkedProcess(command, folder, environment, output)
    try:
        said, _ = process.communicate(timeout)
    finally:
        process.kill_all()
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(command), process.returncode, said, "")
