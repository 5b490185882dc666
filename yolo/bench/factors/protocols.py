"""The protocols that the benchmark compares: how each is started on emulated hosts, and why one is not here."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from yolo.bench.communication.cell import Launch
from yolo.bench.factors.mpi import MPICH, OPEN_MPI, OPEN_MPI_RING
from yolo.communication.backends.known import lacks
from yolo.emulation.cluster import MASTER_PORT, OF_A_RANK, EmulatedCluster
from yolo.recipe.resolve.hardware import visible_gpus

NCCL_BY_SOCKETS = {
    **{"DS_ACCELERATOR": "cuda", "NCCL_SOCKET_IFNAME": "eth0", "NCCL_IB_DISABLE": "1"},
    **{"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"},
}


@dataclass(frozen=True, slots=True)
class Protocol:
    """A library of collectives, by the name that tables give it."""

    name: str
    backend: str
    """`cluster.backend`."""
    absence: Callable[[], str | None]
    """Why this machine cannot run it; None if it can."""
    launch: Launch = EmulatedCluster.launch

    @property
    def word(self) -> str:
        """Its name on the command line."""
        return "_".join(re.findall(r"\w+", self.name.lower()))


def _lack(backend: str) -> str | None:
    return lacks(backend, len(visible_gpus())) or None


def _lack_of_nccl() -> str | None:
    few = len(visible_gpus()) == 1
    return "each of 2 ranks needs a GPU, and there is one" if few else _lack("nccl")


def _launch_nccl(
    cluster: EmulatedCluster, arguments: Sequence[str], output: Path
) -> "list[subprocess.Popen[bytes]]":
    """A GPU for each host; without these variables NCCL would go round the link."""
    words = ["-m" if word == "--module" else word for word in arguments]
    of_all = {
        **{"LOCAL_RANK": "0", "LOCAL_SIZE": "1", "WORLD_SIZE": str(len(cluster.hosts))},
        **{"MASTER_ADDR": cluster.hosts[0].address, "MASTER_PORT": str(MASTER_PORT)},
    }
    started = []
    for number, host in enumerate(cluster.hosts):
        of_this = {"RANK": str(number), "CUDA_VISIBLE_DEVICES": str(number)}
        environment = OF_A_RANK | NCCL_BY_SOCKETS | of_all | of_this
        started.append(cluster.start(host, [sys.executable, *words], output, environment))
    return started


_ALL = (
    Protocol("gloo", "gloo", partial(_lack, "gloo")),
    Protocol("MPICH", "mpi", MPICH.absence, MPICH.launch),
    Protocol("Open MPI", "mpi", OPEN_MPI.absence, OPEN_MPI.launch),
    Protocol("Open MPI, by ring", "mpi", OPEN_MPI_RING.absence, OPEN_MPI_RING.launch),
    Protocol("NCCL", "nccl", _lack_of_nccl, _launch_nccl),
    Protocol("UCC", "ucc", partial(_lack, "ucc")),
    Protocol("XCCL", "xccl", partial(_lack, "xccl")),
)
PROTOCOLS = {protocol.word: protocol for protocol in _ALL}
