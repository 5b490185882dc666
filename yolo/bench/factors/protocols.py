"""The protocols that the benchmark compares: how each is started on emulated hosts, and why one is not here."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from yolo.bench.communication.cell import Launch
from yolo.bench.factors.mpi import MPICH, OPEN_MPI, OPEN_MPI_RING, rank_environment
from yolo.emulation.cluster import EmulatedCluster

NCCL_BY_SOCKETS = {
    **{"DS_ACCELERATOR": "cuda", "NCCL_SOCKET_IFNAME": "eth0", "NCCL_IB_DISABLE": "1"},
    **{"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"},
}


def _always() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Protocol:
    """A library of collectives, by the name that tables give it."""

    name: str
    backend: str
    """`cluster.backend`."""
    absence: Callable[[], str | None] = _always
    """Why this machine cannot run it; None if it can."""
    launch: Launch = EmulatedCluster.launch

    @property
    def word(self) -> str:
        """Its name on the command line."""
        return "_".join(re.findall(r"\w+", self.name.lower()))


def _no_nccl() -> str | None:
    gpus = torch.cuda.device_count()
    if gpus < 2:
        return f"it needs a GPU for each of 2 ranks, and this machine has {gpus or 'none'}"
    return None


def _launch_nccl(
    cluster: EmulatedCluster, arguments: Sequence[str], output: Path
) -> "list[subprocess.Popen[bytes]]":
    """A GPU for each host; without these variables NCCL would go round the link."""
    words = ["-m" if word == "--module" else word for word in arguments]
    started = []
    for number, host in enumerate(cluster.hosts):
        of_this = {"RANK": str(number), "CUDA_VISIBLE_DEVICES": str(number)}
        environment = rank_environment(cluster) | NCCL_BY_SOCKETS | of_this
        started.append(cluster.start(host, [sys.executable, *words], output, environment))
    return started


def _not_in_torch(name: str, is_available: Callable[[], bool]) -> Callable[[], str | None]:
    return lambda: None if is_available() else f"torch {torch.__version__} was built without {name}"


_ALL = (
    Protocol("gloo", "gloo"),
    *(
        Protocol(mpi.name, "mpi", mpi.absence, mpi.launch)
        for mpi in (MPICH, OPEN_MPI, OPEN_MPI_RING)
    ),
    Protocol("NCCL", "nccl", _no_nccl, _launch_nccl),
    Protocol("UCC", "ucc", _not_in_torch("UCC", dist.is_ucc_available)),
    Protocol("XCCL", "xccl", _not_in_torch("XCCL", dist.is_xccl_available)),
)
PROTOCOLS = {protocol.word: protocol for protocol in _ALL}
