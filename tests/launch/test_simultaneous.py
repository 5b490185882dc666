"""Runs that start at one moment on one machine, from one folder: each ends with the bits of its lone run."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

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
    assert codes == [0, 0], outputs
    assert sum("is taken on the first host; starting again" in output for output in outputs) == 1
    for folder in folders:
        latest = folder / "runs" / "demo" / "latest"
        assert_same(last_weights(Ended(0, "", latest)), alone(0))
