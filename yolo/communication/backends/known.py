"""What each backend needs, and whether this machine can run it. Needs no torch: `yolo check` has no time to import it."""

import importlib.util
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.communication.backends.installed_mpi import installed_mpi, lacks_of_mpi


@dataclass(frozen=True, slots=True)
class KnownBackend:
    """A backend of `torch.distributed`."""

    devices: tuple[str, ...]
    """Whose tensors it takes."""
    is_asynchronous: bool
    """Whether the device goes on by itself: a collective then ends after its call has returned, without a thread."""
    launcher: str
    """What has to start the ranks."""
    interfaces: tuple[str, ...]
    """Environment variables that choose the network interface."""
    torch_class: str | None
    """torch's class for it, as C++ writes its name; None if it comes from elsewhere."""
    hint: str
    """How to get it."""


BACKENDS: Mapping[str, KnownBackend] = {
    "gloo": KnownBackend(
        *(("cpu", "cuda"), False, "any", ("GLOO_SOCKET_IFNAME",), "16ProcessGroupGloo"),
        "every torch for Linux has it",
    ),
    "nccl": KnownBackend(
        *(("cuda",), True, "any", ("NCCL_SOCKET_IFNAME", "NCCL_IB_HCA"), "16ProcessGroupNCCL"),
        "it needs NVIDIA GPUs and torch's CUDA build; gloo works on every machine",
    ),
    "mpi": KnownBackend(
        *(("cpu", "cuda"), False, "mpiexec or srun"),
        *(("UCX_NET_DEVICES", "OMPI_MCA_btl_tcp_if_include"), None),
        "`make setup-mpi` installs requirements-mpi.txt",
    ),
    "xccl": KnownBackend(
        *(("xpu",), True, "any", ("CCL_ATL_TRANSPORT", "FI_TCP_IFACE"), "16ProcessGroupXCCL"),
        "it needs Intel GPUs and torch's XPU build; gloo works on every machine",
    ),
    "ucc": KnownBackend(
        *(("cpu", "cuda"), True, "any", ("UCX_NET_DEVICES",), "15ProcessGroupUCC"),
        "it needs a torch that was built with USE_UCC=1; pip's are not; gloo works on every machine",
    ),
}


def lacks(backend: str, gpus: int, mpi: str | None = None) -> str:
    """What a backend lacks on this machine with so many NVIDIA GPUs; empty if it can run. `mpi`: the kind of MPI, if any."""
    known, found = BACKENDS[backend], []
    if backend == "nccl" and not gpus:
        found.append("no GPU")
    if backend == "mpi":
        found += lacks_of_mpi(mpi)
    if known.torch_class is not None and not _torch_has(known.torch_class):
        found.append("torch was built without it")
    return " and ".join(found)


def summary(gpus: int) -> str:
    """Which backends this machine can run, on one line."""
    found = {name: lacks(name, gpus) for name in BACKENDS}
    here = [_described(name) for name, lack in found.items() if not lack]
    others = [f"{name} ({lack})" for name, lack in found.items() if lack]
    return "; ".join(here) + (f"; not here: {', '.join(others)}" if others else "")


def _described(backend: str) -> str:
    return f"mpi ({installed_mpi()})" if backend == "mpi" else backend


def _torch_has(name: str) -> bool:
    """Whether torch's library has a class. Its file is searched, which takes 20 ms; to import torch takes seconds."""
    libraries = _torch_libraries()
    if not libraries:
        return True  # torch itself will say
    with (
        libraries[0].open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as bytes_,
    ):
        return bytes_.find(name.encode()) >= 0


def _torch_libraries() -> Sequence[Path]:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("lib/libtorch_python.*"))
