import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ON_A_PROCESSOR, REPOSITORY
from yolo.launch.failure import first_failure
from yolo.launch.rank import HEARTBEAT_SECONDS, first_host, rank_variables
from yolo.training.resilience.rank_status import records_of

RANK_1 = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0"}


@pytest.mark.parametrize(
    "environment",
    [
        RANK_1,
        {
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        },
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"},
    ],
)
def test_each_launchers_variables_become_torchs(environment: dict[str, str]) -> None:
    assert rank_variables(environment) == {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}


def test_without_a_launcher_it_says_which_variable_is_missing() -> None:
    with pytest.raises(SystemExit, match="RANK: none of PMI_RANK, .* expected mpiexec or srun"):
        rank_variables({})


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node7", "node7"),
        ("node7,node8", "node7"),
        ("gpu-[07-09,12],login1", "gpu-07"),
        ("rack1-[3,5]-ib", "rack1-3-ib"),
    ],
)
def test_under_slurm_ranks_meet_on_the_first_host(hosts: str, first: str) -> None:
    assert first_host(hosts) == first
    found = rank_variables(RANK_1 | {"SLURM_STEP_NODELIST": hosts})
    assert found["MASTER_ADDR"] == first


def start(tmp_path: Path, code: str, *arguments: str) -> "subprocess.Popen[str]":
    (tmp_path / "program.py").write_text(code)
    path = {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    return subprocess.Popen(
        [sys.executable, "-m", "yolo.launch.rank", "program", *arguments],
        env=ON_A_PROCESSOR | RANK_1 | path | {"MASTER_PORT": "29500"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_rank_knows_its_place_and_its_arguments(tmp_path: Path) -> None:
    code = "import os, sys\nprint(sys.argv[1:], os.environ['RANK'], os.environ['WORLD_SIZE'])"
    rank = start(tmp_path, code, "an argument")
    assert rank.communicate(timeout=60)[0] == "['--local_rank=0', 'an argument'] 1 4\n"
    assert rank.returncode == 0


def test_a_killed_rank_is_told_as_deepspeeds_launcher_tells_it_once_the_others_have_written(
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    rank = start(tmp_path, "import os\nos.kill(os.getpid(), 9)", "--run", str(tmp_path))
    assert rank.wait(60) == 256 - signal.SIGKILL
    assert time.monotonic() - began > HEARTBEAT_SECONDS
    (record,) = records_of(tmp_path, 29500)
    assert record.rank == 1
    for launcher_code in (256 - signal.SIGKILL, 9):  # MPICH may return that of a rank it killed
        failure = first_failure([record], launcher_code, was_stopped=False)
        assert failure.text.startswith("rank 1 died first: it was killed by SIGKILL")
        assert failure.code is None


def test_a_signal_reaches_the_rank_and_its_code_comes_back(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    rank = start(tmp_path, code)
    assert rank.stdout is not None and rank.stdout.readline() == "ready\n"
    rank.terminate()
    assert rank.wait(60) == 75


def test_a_rank_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom yolo.launch.parent_death import die_with_parent\ndie_with_parent()\n"
        "print(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    rank = start(tmp_path, code)
    assert rank.stdout is not None
    pid = int(rank.stdout.readline())
    rank.kill()
    rank.wait(60)
    with contextlib.suppress(psutil.NoSuchProcess):
        orphan, deadline = psutil.Process(pid), time.monotonic() + 20
        while orphan.status() != psutil.STATUS_ZOMBIE:  # until its new parent asks for its code
            assert time.monotonic() < deadline
            time.sleep(0.05)
