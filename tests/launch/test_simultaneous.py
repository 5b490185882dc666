"""Runs that start at one moment on one machine, from one folder: each ends with the bits of its lone run."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
from psutil import Process, process_iter

from tests.conftest import needs_a_cluster
from tests.forking.server import ForkedProcess
from tests.training.conftest import (
    DEMO,
    Ended,
    assert_same,
    last_weights,
    start_forked,
    train_command,
)
from yolo.emulation.cluster import EmulatedCluster
from yolo.exit_codes import STOPPED
from yolo.training.checkpointing.run_directory import RunDirectory

PAIRS = int(os.environ.get("YOLO_PAIRS", "1"))
SHORT = ("train.epochs=1", "data.workers=0", "cluster.threads_per_process=1", "cluster.restarts=0")
RUNS: Sequence[tuple[str, ...]] = (
    ("train.seed=1",),
    ("train.seed=2", "optimizer.type=SGD", "optimizer.lr=0.02"),
    ("train.seed=3", "cluster.processes_per_node=1"),
    ("train.seed=4", "communication.sync_every=2"),
)
COMBINED = ((0, 0), (0, 1), (2, 1), (3, 0), (1, 3), (2, 2), (3, 3), (2, 0))
"""Some of the pairs are of one recipe, whose folders have one name too."""

Weights = dict[str, np.ndarray]


def start(folder: Path, demo: Path, *overrides: str) -> ForkedProcess:
    return start_forked(folder, demo, DEMO, "cluster.master_port=auto", *SHORT, *overrides)


def end(folder: Path, process: ForkedProcess) -> Ended:
    output, _ = process.communicate(timeout=300)
    process.kill_all()
    named = re.search(r" --run (\S+)", output)
    assert named, output
    assert process.returncode is not None
    return Ended(process.returncode, output, folder / named[1])


@pytest.fixture(scope="module")
def alone(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Weights]:
    """The last weights of a run that had the machine for itself."""

    @cache
    def weights(run: int) -> Weights:
        folder = tmp_path_factory.mktemp("alone")
        ended = end(folder, start(folder, small_demo, *RUNS[run]))
        assert ended.code == 0, ended.output
        return last_weights(ended)

    return weights


@pytest.mark.slow(20)
@pytest.mark.parametrize("pair", list(islice(cycle(COMBINED), PAIRS)))
def test_two_runs_that_start_at_one_moment_end_as_if_alone(
    small_demo: Path,
    tmp_path: Path,
    alone: Callable[[int], Weights],
    pair: tuple[int, int],
) -> None:
    """`YOLO_PAIRS=20` for more pairs."""
    processes = [start(tmp_path, small_demo, *RUNS[run]) for run in pair]
    both = [end(tmp_path, process) for process in processes]
    assert both[0].folder != both[1].folder
    for run, ended in zip(pair, both, strict=True):
        assert ended.code == 0, ended.output
        assert_same(last_weights(ended), alone(run))
        assert ended.read("summary.json")["steps"] == 3


@needs_a_cluster
@pytest.mark.slow(30)
@pytest.mark.launcher
def test_runs_of_two_machines_on_the_same_hosts_end_as_if_alone(
    small_demo: Path, tmp_path: Path, alone: Callable[[int], Weights]
) -> None:
    """Neither machine sees that the other takes the same port of the first host: the ranks find out."""
    hosts = ("cluster.hostfile=/dev/shm/hostfile", "cluster.master_port=auto", *SHORT)
    folders = [tmp_path / name for name in ("node0", "node1")]
    with EmulatedCluster(2) as cluster:
        environment, processes = cluster.open_to_ssh(), []
        for host, folder, run in zip(cluster.hosts, folders, (RUNS[0], RUNS[0]), strict=True):
            folder.mkdir()
            command = train_command(small_demo, DEMO, *hosts, *run)
            with (folder / "output").open("wb") as file:
                started = host.run(
                    command, environment, folder, stdout=file, stderr=subprocess.STDOUT
                )
            processes.append(started)
        codes = [process.wait(300) for process in processes]
    outputs = [(folder / "output").read_text() for folder in folders]
    assert codes == [0, 0], "\n".join(outputs)
    assert sum("is taken on the first host; starting again" in output for output in outputs) == 1
    for folder in folders:
        latest = folder / "runs" / "demo" / "latest"
        assert_same(last_weights(Ended(0, "", latest)), alone(0))


@needs_a_cluster
@pytest.mark.slow(15)
@pytest.mark.launcher
def test_a_run_that_is_stopped_at_once_ends_no_other_on_its_hosts(
    small_demo: Path, tmp_path: Path
) -> None:
    """DeepSpeed would end all its launchers there, whatever they have started."""
    hosts = ("cluster.hostfile=/dev/shm/hostfile", "train.epochs=500", "data.workers=0")
    launcher = "-u -m deepspeed.launcher.launch --master_port=29500 --module"
    other_run = f"exec -a '{sys.executable} {launcher} other' sleep 600"

    def launchers() -> list[str]:
        found = [" ".join(process.info["cmdline"] or ()) for process in process_iter(["cmdline"])]
        return [line for line in found if "deepspeed.launcher.launch" in line]

    def wait_for(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)

    output = tmp_path / "output"
    with EmulatedCluster(2) as cluster, output.open("wb") as file:
        first, second = cluster.hosts
        second.run(["bash", "-c", other_run])
        command = train_command(small_demo, DEMO, *hosts)
        environment = cluster.open_to_ssh()
        entered = first.run(command, environment, tmp_path, stdout=file, stderr=file)
        run = RunDirectory(tmp_path / "runs" / "demo" / "latest")
        wait_for(lambda: run.newest_checkpoint is not None)
        (train,) = Process(entered.pid).children()
        for _ in range(2):
            train.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert entered.wait(60) == STOPPED, output.read_text()
        wait_for(lambda: not any(str(small_demo) in line for line in launchers()))
        assert "\nstopped; " in output.read_text()
        assert any(f"{launcher} other" in line for line in launchers())
