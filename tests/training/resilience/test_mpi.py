"""Runs whose ranks mpiexec starts: they are trained to their end, and survive a killed rank."""

import os
import signal
from pathlib import Path

import pytest

from tests.communication.backends.test_mpi import needs_mpi
from tests.training.conftest import Start, wait_until
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.resilience.rank_status import RANKS, RankHeartbeat, records_of


def heartbeat_of_rank_1(run: Path) -> RankHeartbeat | None:
    for port in (run / RANKS).glob("*"):
        for record in records_of(run, int(port.name)):
            if record.rank == 1:
                return record.heartbeat
    return None


@needs_mpi
@pytest.mark.slow(40)
@pytest.mark.launcher
def test_a_killed_rank_is_named_and_the_run_starts_again_to_its_end(
    start_anew: Start, tmp_path: Path
) -> None:
    size = ("model.image_size=64", "train.epochs=12", "evaluation.every_epochs=12")
    settings = ("cluster.backend=mpi", *size)
    process = start_anew("recipes/demo.yaml", *settings)
    latest = tmp_path / "runs" / "demo" / "latest"

    wait_until(process, lambda: RunDirectory(latest).newest_checkpoint is not None)
    heartbeat = heartbeat_of_rank_1(latest.resolve())
    assert heartbeat is not None
    os.kill(heartbeat.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:]
    assert f"rank 1 ({heartbeat.host}) died first: it was killed by SIGKILL while " in output
    assert "starting again from epoch-" in output and "Resumed from epoch " in output
    assert (latest / "finished").exists()
