"""Commands that start the ranks with MPI's mpiexec or SLURM's srun, and not through DeepSpeed's launcher. Needs no torch.

DeepSpeed 0.19.8 has runners for these (`deepspeed --launcher openmpi|mpich|slurm`), but not as a run needs them. openmpi and
mpich refuse a number of nodes or of processes and ask for a hostfile and ssh even on one machine; openmpi ties all traffic
to an interface eth0; slurm drops `--module`; none sets RANK under srun; and they end before their mpiexec does, so that
nobody could stop it.
"""

import os
import shutil
from collections.abc import Sequence

from yolo.communication.backends.installed_mpi import NAMES, InstalledMPI, installed_mpi
from yolo.errors import LaunchError
from yolo.recipe.resolve.hostfile import ListedHost
from yolo.recipe.schema.recipe import ResolvedCluster

LIBRARY = "MPI4PY_LIBMPI"
"""Environment variable that tells mpi4py which library to load."""
MPICH_SSH_OPTIONS = "HYDRA_LAUNCHER_EXTRA_ARGS"
"""Environment variable with which MPICH's mpiexec passes options to ssh."""
EXPORTED = ("PYTHON", "OMP_", "NCCL_", "GLOO_", "UCX_", "OMPI_MCA_", "MPI4PY_", "DS_ACCELERATOR")
"""Beginnings of the variables that Open MPI hands to other hosts; MPICH and SLURM hand over all."""

Variables = Sequence[tuple[str, str]]


def launcher_of(cluster: ResolvedCluster) -> str:
    """pdsh, openmpi, mpich or slurm: `cluster.launcher`, or what `auto` means on this machine."""
    if cluster.launcher != "auto":
        return cluster.launcher
    if cluster.backend != "mpi":
        return "pdsh"
    found = installed_mpi()
    return found.kind if found else "mpich"


def mpi_command(
    cluster: ResolvedCluster,
    launcher: str,
    hosts: Sequence[ListedHost],
    environment: list[tuple[str, str]],
    command: Sequence[str],
) -> tuple[str, ...]:
    """The command that runs one `command` per rank on the hosts of a hostfile; without hosts, on this machine.

    Adds to `environment` what the ranks need. Raises LaunchError if the launcher is not here.
    """
    processes = cluster.processes_per_node
    environment.append(("LOCAL_WORLD_SIZE", str(processes)))
    if launcher == "slurm":
        return (*_srun(cluster), *command)
    found = installed_mpi(launcher)
    if found is None:
        raise LaunchError(
            f"cluster.launcher {launcher}: no mpiexec of {NAMES[launcher]} beside this Python or on PATH; `make setup-mpi` "
            "installs MPICH's"
        )
    if found.library is not None and LIBRARY not in os.environ:
        environment.append((LIBRARY, str(found.library)))
    environment.append(("MASTER_ADDR", hosts[0].name.rpartition("@")[2] if hosts else "127.0.0.1"))
    options = (
        _mpich(hosts, processes)
        if launcher == "mpich"
        else _openmpi(found, hosts, processes, environment)
    )
    ranks = str(cluster.nodes * processes)
    return (str(found.mpiexec), *options, "-n", ranks, *command)


def _mpich(hosts: Sequence[ListedHost], processes: int) -> list[str]:
    options = ["-bind-to", "none"]
    if hosts:
        names = ",".join(f"{host.name}:{processes}" for host in hosts)
        options += ["-launcher", "ssh", "-launcher-exec", _ssh(), "-hosts", names]
    return options


def _openmpi(
    found: InstalledMPI, hosts: Sequence[ListedHost], processes: int, environment: Variables
) -> list[str]:
    options = ["--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"]
    if os.geteuid() == 0:
        options.append("--allow-run-as-root")  # as in a container
    if hosts:
        names = ",".join(f"{host.name}:{processes}" for host in hosts)
        options += [*_agent(found), _ssh(), "--host", names]
        exported = {name for name in os.environ if name.startswith(EXPORTED)}
        for name in sorted(exported | {name for name, _ in environment}):
            options += ["-x", name]
    return options


def _agent(openmpi: InstalledMPI) -> tuple[str, str]:
    """The option that names the program to reach hosts with; Open MPI 5 has a launcher of its own for it, PRRTE."""
    is_old = int(openmpi.version.partition(".")[0]) < 5
    return ("--mca", "plm_rsh_agent") if is_old else ("--prtemca", "plm_ssh_agent")


def _srun(cluster: ResolvedCluster) -> list[str]:
    nodes, processes = cluster.nodes, cluster.processes_per_node
    options = [
        f"--nodes={nodes}",
        f"--ntasks={nodes * processes}",
        f"--ntasks-per-node={processes}",
    ]
    # MPICH, and Open MPI since 5, meet over PMIx or PMI-2; other backends need neither.
    if cluster.backend == "mpi":
        found = installed_mpi()
        options.append("--mpi=pmi2" if found is None or found.kind == "mpich" else "--mpi=pmix")
    return ["srun", *options, "--kill-on-bad-exit=1", "--cpu-bind=none", "--export=ALL"]


def _ssh() -> str:
    return shutil.which("ssh") or "ssh"
