"""The protocols that the benchmark compares: how each is started on emulated hosts, and why one is not here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from yolo.bench.communication.cell import Launch
from yolo.bench.factors.mpi import MPICH, OPEN_MPI, OPEN_MPI_RING
from yolo.emulation.cluster import EmulatedCluster
from yolo.errors import BenchError


def _always() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Protocol:
    """A library of collectives."""

    name: str
    backend: str
    """`cluster.backend`."""
    absence: Callable[[], str | None] = _always
    """Why this machine cannot run it; None if it can."""
    launch: Launch = EmulatedCluster.launch


def _no_nccl() -> str | None:
    gpus = torch.cuda.device_count()
    if gpus < 2:
        return f"it needs a GPU for each of 2 ranks, and this machine has {gpus or 'none'}"
    return "NCCL between emulated hosts was never tried; `yolo calibrate` measures it between GPUs"


def _not_in_torch(name: str, is_available: Callable[[], bool]) -> Callable[[], str | None]:
    return lambda: None if is_available() else f"torch {torch.__version__} was built without {name}"


PROTOCOLS = (
    Protocol("gloo", "gloo"),
    *(
        Protocol(mpi.name, "mpi", mpi.absence, mpi.launch)
        for mpi in (MPICH, OPEN_MPI, OPEN_MPI_RING)
    ),
    Protocol("NCCL", "nccl", _no_nccl),
    Protocol("UCC", "ucc", _not_in_torch("UCC", dist.is_ucc_available)),
    Protocol("XCCL", "xccl", _not_in_torch("XCCL", dist.is_xccl_available)),
)


def chosen(names: str) -> list[Protocol]:
    """The protocols of a list such as `gloo,MPICH`, or `all`. Raises BenchError for an unknown name."""
    known = {protocol.name.lower(): protocol for protocol in PROTOCOLS}
    wanted = list(known) if names == "all" else names.lower().split(",")
    if unknown := [name for name in wanted if name not in known]:
        raise BenchError(
            f"{', '.join(unknown)}: no such protocol; expected some of {', '.join(known)}, or all"
        )
    return [known[name] for name in wanted]
