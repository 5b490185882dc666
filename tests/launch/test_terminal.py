"""What a run prints may find its terminal closed; the run goes on."""

import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.conftest import ON_A_PROCESSOR
from tests.training.conftest import train_command
from yolo.training.checkpointing.run_directory import RunDirectory

PRINTING = """
import logging, sys, time
from yolo.launch.terminal import survive_closed_terminal

survive_closed_terminal()
logging.basicConfig(stream=sys.stdout)
print("begun", flush=True)
sys.stdin.readline()
for stream in (sys.stdout, sys.stderr):
    print("nobody reads this", file=stream, flush=True)
logging.warning("nor this")
open("end", "w").write("reached")
"""


def started(tmp_path: Path, output: int, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *options, "-c", textwrap.dedent(PRINTING)],
        cwd=tmp_path,
        env=ON_A_PROCESSOR,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        text=True,
    )


@pytest.mark.parametrize("options", [(), ("-u",)])
@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_printing_to_a_closed_terminal_or_pipe_ends_nothing(
    tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    reading, writing = pty.openpty() if kind == "terminal" else os.pipe()
    process = started(tmp_path, writing, *options)
    os.close(writing)
    assert os.read(reading, 100).strip() == b"begun"
    os.close(reading)
    process.communicate("go on\n", timeout=20)
    assert process.returncode == 0
    assert (tmp_path / "end").read_text() == "reached"


def test_other_errors_of_an_output_are_heard(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = started(tmp_path, full.fileno())
        process.communicate("go on\n", timeout=20)
    assert process.returncode != 0


@pytest.mark.slow(40)
@pytest.mark.launcher
def test_a_run_whose_terminal_closes_leaves_with_a_checkpoint(
    small_demo: Path, tmp_path: Path
) -> None:
    """The kernel sends SIGHUP to the leader of the terminal's session, and writing there fails from then on."""
    command = train_command(small_demo, "recipes/demo.yaml", "train.epochs=500")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execve(command[0], command, dict(ON_A_PROCESSOR))
    try:
        latest = RunDirectory(tmp_path / "runs" / "demo" / "latest")
        deadline = time.monotonic() + 120
        os.set_blocking(terminal, False)
        while latest.newest_checkpoint is None and time.monotonic() < deadline:
            _drain(terminal)
            time.sleep(0.1)
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.killpg(pid, signal.SIGKILL)
        raise
    assert os.waitstatus_to_exitcode(status) == 75
    assert not latest.finished.exists()


def _drain(terminal: int) -> None:
    try:
        os.read(terminal, 65536)
    except BlockingIOError:
        return
