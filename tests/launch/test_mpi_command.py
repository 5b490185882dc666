"""The commands of MPI's and SLURM's launchers, with stand-ins for their programs."""

import os
import subprocess
from pathlib import Path

import pytest

from yolo.communication.backends import installed_mpi as mpi
from yolo.errors import LaunchError, RecipeError
from yolo.launch.command import Launch, launch_training
from yolo.recipe import prepare
from yolo.training.checkpointing.run_directory import RunDirectory

DEMO = Path(__file__).parents[2] / "recipes" / "demo.yaml"
PORT = 29500
SAYS = {
    "mpich": "HYDRA build details:\n    Version: 5.0.2",
    "openmpi": "mpiexec (Open MPI) 5.0.11",
}


@pytest.fixture(autouse=True)
def only_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No MPI is beside this Python, and none but the test's on PATH."""
    monkeypatch.setattr(mpi.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.delenv("MPI4PY_LIBMPI", raising=False)
    monkeypatch.setattr(mpi, "has_mpi4py", lambda: True)


def program(tmp_path: Path, name: str, does: str) -> Path:
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return path


def mpiexec(tmp_path: Path, kind: str) -> Path:
    return program(tmp_path, "mpiexec", f"cat <<'END'\n{SAYS[kind]}\nEND")


def hostfile(tmp_path: Path) -> str:
    path = tmp_path / "hosts"
    path.write_text("me@node1 slots=4\nnode2 slots=4\n")
    return f"cluster.hostfile={path}"


def launch(*overrides: str) -> Launch:
    resolved = prepare(DEMO, overrides).resolved
    return launch_training(resolved, overrides, RunDirectory(Path("runs/x")), PORT)


@pytest.mark.parametrize("kind", ["mpich", "openmpi"])
def test_mpi_is_started_by_the_mpiexec_that_is_there(tmp_path: Path, kind: str) -> None:
    found = mpiexec(tmp_path, kind)
    library = tmp_path / "lib" / mpi.LIBRARIES[kind]
    library.parent.mkdir()
    library.touch()
    made = launch("cluster.backend=mpi", "cluster.processes_per_node=4")
    assert made.command[0] == str(found)
    assert " -n 4 " in str(made) and "-m yolo.launch.rank yolo.train --recipe" in str(made)
    given = dict(made.environment)
    assert given["MPI4PY_LIBMPI"] == str(library)
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("127.0.0.1", str(PORT))
    assert given["LOCAL_WORLD_SIZE"] == "4" and given["OMP_NUM_THREADS"]
    assert "none" in made.command  # ranks are bound to no core: their threads are counted already


def test_mpich_reaches_hosts_by_ssh_which_gives_up_with_the_ranks(tmp_path: Path) -> None:
    mpiexec(tmp_path, "mpich")
    ssh = program(tmp_path, "ssh", "")
    settings = (hostfile(tmp_path), "communication.timeout_seconds=60", "cluster.accelerator=cpu")
    made = launch("cluster.launcher=mpich", *settings)
    assert f"-launcher ssh -launcher-exec {ssh} -hosts me@node1:4,node2:4 -n 8 " in str(made)
    given = dict(made.environment)
    assert given["MASTER_ADDR"] == "node1" and given["DS_ACCELERATOR"] == "cpu"
    options = given["HYDRA_LAUNCHER_EXTRA_ARGS"]
    assert options == "-o ServerAliveInterval=15 -o ServerAliveCountMax=3"


def test_open_mpi_hands_the_hosts_what_ranks_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpiexec(tmp_path, "openmpi")
    monkeypatch.setenv("UCX_NET_DEVICES", "ib0")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    made = launch("cluster.backend=mpi", hostfile(tmp_path), "cluster.accelerator=cpu")
    assert "--host me@node1:4,node2:4 " in str(made) and " -n 8 " in str(made)
    for name in ("UCX_NET_DEVICES", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"):
        assert f"-x {name} " in str(made)
    assert "WANDB" not in str(made)
    assert "--prtemca plm_ssh_agent " in str(made)


def test_open_mpi_4_names_the_program_to_reach_hosts_with_otherwise(tmp_path: Path) -> None:
    old = SAYS["openmpi"].replace("5.", "4.", 1)
    program(tmp_path, "mpiexec", f"cat <<'END'\n{old}\nEND")
    mpi._identify.cache_clear()
    made = launch("cluster.backend=mpi", hostfile(tmp_path), "cluster.accelerator=cpu")
    assert "--mca plm_rsh_agent " in str(made) and "--prtemca" not in str(made)


def test_under_slurm_mpi_needs_no_mpiexec() -> None:
    made = launch("cluster.backend=mpi", "cluster.launcher=slurm", "cluster.nodes=2")
    assert made.command[0] == "srun" and "--mpi=pmi2" in made.command


def test_srun_starts_the_ranks_of_an_allocation(tmp_path: Path) -> None:
    """The real command, with an srun that starts one task as SLURM does: it needs no hostfile."""
    program(
        tmp_path,
        "srun",
        'echo "$@"\nwhile [ "$1" != "${1#-}" ]; do shift; done\nexport SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1\n'
        'export SLURM_STEP_NODELIST="node[03-04]"\nexec env',
    )
    made = launch("cluster.launcher=slurm", "cluster.nodes=2", "cluster.processes_per_node=4")
    ran = subprocess.run(
        made.command, env=os.environ | dict(made.environment), capture_output=True, text=True
    )
    first, *variables = ran.stdout.splitlines()
    assert first.startswith("--nodes=2 --ntasks=8 --ntasks-per-node=4 ")
    assert "--kill-on-bad-exit=1" in first and "--mpi" not in first
    assert "-m yolo.launch.rank yolo.train --recipe" in first
    assert {f"MASTER_PORT={PORT}", "LOCAL_WORLD_SIZE=4"} <= set(variables)
    assert not any(line.startswith("MASTER_ADDR=") for line in variables)


def test_under_slurm_mpi_meets_as_it_can(tmp_path: Path) -> None:
    settings = ("cluster.backend=mpi", "cluster.launcher=slurm", "cluster.nodes=2")
    for kind, way in (("mpich", "--mpi=pmi2"), ("openmpi", "--mpi=pmix")):
        mpiexec(tmp_path, kind)
        mpi._identify.cache_clear()
        assert way in launch(*settings, "cluster.processes_per_node=1").command


def test_what_is_missing_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = "`make setup-mpi` installs"
    with pytest.raises(LaunchError, match=f"backend mpi: no mpiexec on this machine; {remedy}"):
        launch("cluster.backend=mpi")
    mpiexec(tmp_path, "mpich")
    with pytest.raises(LaunchError, match="no mpiexec of Open MPI on this machine"):
        launch("cluster.backend=mpi", "cluster.launcher=openmpi")
    with pytest.raises(LaunchError, match=f"launcher openmpi: no mpiexec of Open MPI.*{remedy}"):
        launch("cluster.launcher=openmpi")
    monkeypatch.setattr(mpi, "has_mpi4py", lambda: False)
    with pytest.raises(LaunchError, match=f"backend mpi: no mpi4py on this machine; {remedy}"):
        launch("cluster.backend=mpi")


def test_deepspeeds_launcher_starts_no_mpi() -> None:
    with pytest.raises(RecipeError, match="cluster.launcher: .*openmpi, mpich or slurm"):
        launch("cluster.backend=mpi", "cluster.launcher=pdsh")


def test_other_backends_start_as_before(tmp_path: Path) -> None:
    mpiexec(tmp_path, "mpich")
    assert "--module yolo.train" in str(launch("cluster.backend=gloo"))
    assert "-m yolo.launch.rank" in str(launch("cluster.backend=gloo", "cluster.launcher=mpich"))
