"""MPI's process group, on real ranks that mpiexec starts through the parent that each rank has."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ON_A_PROCESSOR, REPOSITORY, free_port
from yolo.communication.backends import installed_mpi as installed_mpi_module
from yolo.communication.backends.installed_mpi import installed_mpi, lacks_of_mpi

LACKS = " and ".join(lacks_of_mpi())
needs_mpi = pytest.mark.skipif(bool(LACKS), reason=f"{LACKS}: `make setup-mpi` installs MPI")


def under_mpiexec(out: Path, ranks: int, worker: str, *arguments: str) -> Any:
    found = installed_mpi()
    assert found is not None
    command = [str(found.mpiexec), "-n", str(ranks), sys.executable, "-m", "yolo.launch.rank"]
    module = [f"tests.workers.{worker}", "--out", str(out), *arguments]
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    log = out.with_suffix(".log")
    with log.open("wb") as file:
        subprocess.run(
            [*command, *module],
            cwd=REPOSITORY,
            env=ON_A_PROCESSOR | rendezvous | root,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=600,
        )
    # Ranks whose operation ended too late do not finalize MPI, which mpiexec reports.
    assert out.exists(), log.read_text()[-5000:]
    return json.loads(out.read_text())


@needs_mpi
@pytest.mark.slow(12)
def test_all_operations_do_what_gloos_do_in_groups_of_2_3_and_4_ranks(tmp_path: Path) -> None:
    failed = under_mpiexec(tmp_path / "out.json", 4, "mpi_and_gloo")
    assert len(failed) > 180
    assert {name: ranks for name, ranks in failed.items() if ranks} == {}


@needs_mpi
@pytest.mark.slow(40)
def test_every_strategy_trains_to_gloos_weights(tmp_path: Path) -> None:
    """Two ranks' sums do not depend on their order, so the weights are the same to the last bit."""
    ours, theirs = (
        under_mpiexec(tmp_path / f"{backend}.json", 2, "mpi_training", "--backend", backend)
        for backend in ("mpi", "gloo")
    )
    assert (ours.pop("backend"), theirs.pop("backend")) == ("mpi4py", "gloo")
    assert ours == theirs


def test_that_mpi4py_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed_mpi_module, "has_mpi4py", lambda: False)
    assert "no mpi4py" in list(lacks_of_mpi())
