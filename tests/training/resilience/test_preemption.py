"""A rank that is asked to leave. Each test's rank is a process of its own, without torch."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY

START = """
import ctypes, multiprocessing, os, signal, sys, time
from pathlib import Path
from yolo.training.resilience.preemption import PreemptionHandler

request = PreemptionHandler.listen(Path({folder!r}), {is_main}, {seconds})
"""
Rank = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Rank]:
    """Start a rank that listens, then runs a program; its first line is waited for."""
    started = []

    def start(
        program: str, is_main: bool = True, seconds: float = 30.0, **environment: str
    ) -> "subprocess.Popen[str]":
        beginning = START.format(folder=str(tmp_path), is_main=is_main, seconds=seconds)
        process = subprocess.Popen(
            [sys.executable, "-uc", beginning + textwrap.dedent(program)],
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


UNTIL_ASKED = """
print("listening")
while not request.is_requested():
    time.sleep(0.02)
print(request.reason)
"""
DEAF_SECONDS = 60
DEAF = f"""
print("listening")
while True:  # a signal ends it early
    ctypes.CDLL(None).sleep({DEAF_SECONDS})  # as a collective does: it is C's, and Python's handlers must wait
"""


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_asks(rank: Rank, number: signal.Signals) -> None:
    process = rank(UNTIL_ASKED, is_main=False)
    assert first_line(process) == "listening"
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == f"{number.name}\n"
    assert process.returncode == 0


def test_a_second_hangup_changes_nothing(rank: Rank) -> None:
    """Both the shell and the kernel may send one."""
    process = rank(DEAF, seconds=1.5)
    assert first_line(process) == "listening"
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
    assert process.poll() is None
    process.communicate(timeout=20)
    assert process.returncode == 76


def test_hangup_stays_ignored_under_nohup(rank: Rank) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = rank(UNTIL_ASKED, is_main=False)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert first_line(process) == "listening"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.communicate(timeout=20)[0] == "SIGTERM\n"


def test_yolo_train_asks_the_first_rank_by_a_file(rank: Rank, tmp_path: Path) -> None:
    first, second = rank(UNTIL_ASKED), rank(UNTIL_ASKED, is_main=False)
    assert first_line(first) == first_line(second) == "listening"
    (tmp_path / "leave").touch()
    assert first.communicate(timeout=20)[0] == "yolo train\n"
    time.sleep(0.2)
    assert second.poll() is None


def test_who_sits_in_a_collective_is_ended_when_its_time_is_over(rank: Rank) -> None:
    process = rank(DEAF, seconds=1.0)
    assert first_line(process) == "listening"
    process.terminate()
    started = time.monotonic()
    _, error = process.communicate(timeout=20)
    assert 0.9 < time.monotonic() - started < DEAF_SECONDS / 2
    assert process.returncode == 76
    assert "rank 0: SIGTERM asked this rank to stop, and it did not within" in error
    assert error.count("\n") == 1


def test_a_second_ctrl_c_ends_at_once(rank: Rank) -> None:
    process = rank(DEAF)
    assert first_line(process) == "listening"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130


WITH_A_WORKER = """
def work():
    print(os.getpid(), flush=True)
    while os.getppid() == rank:
        time.sleep(0.1)

rank = os.getpid()
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
"""


def test_a_workers_signals_are_not_the_ranks(rank: Rank) -> None:
    """SLURM sends a signal to every process of a job; the rank still needs its workers for the step that it is in."""
    process = rank(
        WITH_A_WORKER + "time.sleep(1.5); print(request.is_requested(), worker.is_alive())"
    )
    worker = psutil.Process(int(first_line(process)))
    time.sleep(0.2)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        worker.send_signal(number)
    assert first_line(process) == "False True"


def test_a_rank_ends_its_workers_as_ever(rank: Rank) -> None:
    process = rank(
        WITH_A_WORKER
        + "time.sleep(0.5); worker.terminate(); worker.join(10); print(worker.exitcode)"
    )
    int(first_line(process))
    assert first_line(process) == "0"


def test_a_rank_does_not_outlive_yolo_train(rank: Rank) -> None:
    """Its launcher would: nothing tells it."""
    supervisor = subprocess.Popen(["sleep", "0"])
    supervisor.wait()
    process = rank(DEAF, YOLO_SUPERVISOR=str(supervisor.pid))
    _, error = process.communicate(timeout=20)
    assert process.returncode == 76
    assert "`yolo train`, which started this rank, is gone" in error
