"""Ranks that wait for others that do not come: the wait ends, and they are named."""

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from tests.conftest import (
    ON_A_PROCESSOR,
    REPOSITORY,
    WORKERS,
    free_port,
    launcher_command,
    needs_a_cluster,
)
from tests.forking.server import run_forked
from tests.training.conftest import Start, wait_until
from yolo.emulation.cluster import EmulatedCluster
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext
from yolo.training.resilience.heartbeat import HeartbeatMonitor, RanksLost
from yolo.training.resilience.rank_status import RankHeartbeat, records_of

LIMIT_SECONDS = 8.0
"""`communication.timeout_seconds` of these runs."""
IN_TIME = 10
"""Times the limit: these tests run beside others, and what waits without a limit waits for 10 minutes. How much longer than
the limit a run takes `yolo.bench.chaos` measures."""


@pytest.fixture
def standings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HeartbeatMonitor:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    return HeartbeatMonitor(
        DistributedContext(1, 0, 2, 1, torch.device("cpu")), ["node0", "node1"], tmp_path, 4.0
    )


def test_an_error_of_another_kind_passes(standings: HeartbeatMonitor) -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"), standings.attribute_failure():
        raise RuntimeError("shapes do not match")


def test_where_nobody_answers_the_first_ranks_host_is_named(standings: HeartbeatMonitor) -> None:
    standings.set_phase("comparing weights after step 7")
    with pytest.raises(RanksLost) as raised, standings.attribute_failure():
        raise RuntimeError("[gloo/pair.cc:1] Connection closed by peer [127.0.0.1]:1")
    assert str(raised.value).startswith(
        "rank 0 (node0), which holds the heartbeats of all ranks, does not answer; "
    )
    assert "was comparing weights after step 7 when the connection" in str(raised.value)


def test_to_say_where_one_stands_costs_no_more_than_a_line_of_a_log(
    standings: HeartbeatMonitor,
) -> None:
    """It is said some ten times a step."""

    def seconds(say: Callable[[str], None]) -> float:
        started = time.process_time()
        for number in range(10_000):
            say(f"computing step {number}")
        return time.process_time() - started

    log = logging.Logger("to nobody")
    log.addHandler(logging.NullHandler())
    assert min(seconds(standings.set_phase) for _ in range(3)) < min(
        seconds(log.info) for _ in range(3)
    )


def launched(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    command = launcher_command(2, str(WORKERS / "standing.py"), "--run", str(tmp_path), *arguments)
    ran = run_forked(command, REPOSITORY, ON_A_PROCESSOR, tmp_path / "output")
    return ran.returncode, ran.stdout


@pytest.mark.slow
def test_a_rank_that_stands_elsewhere_is_named_with_its_place(tmp_path: Path) -> None:
    code, output = launched(tmp_path, "--rank-1", "reads")
    assert code == 76
    expected = (
        r"all ranks are alive, but some are in another phase: rank 1 \(\S+\) is waiting for images of step 3 for \d+ s; "
        r"rank 0 \(\S+\) was exchanging gradients of step 3 when a collective timed out at 4 s"
    )
    assert re.search(expected, output), output


@pytest.mark.slow
def test_a_wait_that_raises_nothing_is_ended_by_the_ranks_own_thread(tmp_path: Path) -> None:
    """As with NCCL, or in gloo's sending: here the process group itself would wait for ten minutes."""
    code, output = launched(tmp_path, "--rank-1", "reads", "--unraised")
    assert code == 76
    assert "rank 1" in output and "is waiting for images of step 3" in output
    assert re.search(r"not finished after [5-9] s \(communication.timeout_seconds 4\)", output)


def standing(run: Path, rank: int) -> RankHeartbeat | None:
    for start in sorted((run / "ranks").glob("*")):
        for record in records_of(run, int(start.name)):
            if record.rank == rank:
                return record.heartbeat
    return None


def is_training(run: Path) -> bool:
    return all((place := standing(run, rank)) and " step " in place.phase for rank in (0, 1))


@pytest.mark.slow
def test_a_stopped_rank_ends_the_run_which_names_it_and_its_place(
    start: Start, tmp_path: Path
) -> None:
    settings = (
        f"communication.timeout_seconds={LIMIT_SECONDS}",
        "cluster.restarts=0",
        "train.epochs=500",
        "evaluation.every_epochs=500",
    )
    process = start("recipes/demo.yaml", *settings)
    latest = tmp_path / "runs" / "demo" / "latest"
    wait_until(process, lambda: latest.exists() and is_training(latest.resolve()))
    time.sleep(2)
    stopped = standing(latest.resolve(), 1)
    assert stopped is not None
    os.kill(stopped.pid, signal.SIGSTOP)
    began = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert time.monotonic() - began < IN_TIME * LIMIT_SECONDS
    assert process.returncode == 2
    missing = r"missing: rank 1 \(\S+\), silent for \d+ s, was \w[\w ]* step \d+"
    assert re.search(missing, output), output[-3000:]
    silent = r"rank 1 \(\S+\) died first: it fell silent while \w[\w ]* step \d+"
    assert re.search(silent, output), output[-3000:]
    assert not psutil.pid_exists(stopped.pid)


@needs_a_cluster
@pytest.mark.slow
@pytest.mark.launcher
def test_a_host_cut_off_for_good_is_named_in_time_and_the_run_goes_on_without_it(
    small_demo: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "two.yaml"
    recipe.write_text(
        f"extends: {REPOSITORY / 'recipes' / 'demo.yaml'}\n"
        f"data: {{root: {small_demo}, workers: 0}}\n"
        "model: {image_size: 64}\n"
        "train: {epochs: 30, global_batch: 8, warmup_epochs: 0}\n"
        "evaluation: {every_epochs: 30}\n"
        "checkpoint: {every_epochs: 1}\n"
        "tracking: {wandb: {mode: disabled}}\n"
        "precision: {dtype: fp32}\n"
        f"communication: {{timeout_seconds: {LIMIT_SECONDS}}}\n"
        "cluster: {nodes: 2, processes_per_node: 1, hostfile: /dev/shm/hostfile, least_nodes: 1,"
        " threads_per_process: 1}\n"
    )
    run = RunDirectory(tmp_path / "runs" / "two" / "latest")
    log = tmp_path / "output"
    with EmulatedCluster(2) as cluster, log.open("wb") as file:
        first, second = cluster.hosts
        command = [sys.executable, "-m", "yolo", "train", str(recipe)]
        process = first.run(command, cluster.open_to_ssh(), tmp_path, stdout=file, stderr=file)

        def wait(condition: "str | None", seconds: float) -> None:
            began = time.monotonic()
            while not (condition in log.read_text() if condition else run.newest_checkpoint):
                assert process.poll() is None and time.monotonic() - began < seconds, (
                    log.read_text()
                )
                time.sleep(0.1)

        wait(None, 500)
        cluster.cut(second)
        wait("\nyolo: ", IN_TIME * LIMIT_SECONDS)
        assert process.wait(500) == 0, log.read_text()
    output = log.read_text()
    assert re.search(r"yolo: ranks were lost: missing: rank 1 \(node1\), silent for \d+ s", output)
    assert "node1 does not answer (" in output
    assert "continuing with 1 of 2 nodes" in output
    assert "Resumed from epoch" in output
    assert run.finished.exists()
