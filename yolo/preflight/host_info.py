"""What is requested of a host, and what it reports. Standard library only, so that a host that lacks packages can answer."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What a host is to inspect; paths are relative to the repository's folder."""

    files: Sequence[str]
    """Compared by content: the recipe, annotations, weights."""
    folders: Sequence[str]
    """Compared by the number and size of their images."""
    splits: Sequence[Sequence[str]]
    """Pairs of a data.yaml and one of its splits, whose images and labels are compared likewise."""
    seconds: int
    """Timeout, after which the host gives up."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    memory_mib: int
    """0 if the driver's tool does not report it."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface with an IPv4 address."""

    name: str
    address: str
    mtu: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Code:
    """The repository on a host."""

    commit: str | None
    """None if git fails; `problem` is its message."""
    changed: int
    """Files that differ from the commit or are not in it."""
    source: str
    """Digest of the package's Python files, whatever git reports."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """The data that the recipe names."""

    digests: dict[str, str | None]
    """sha256 by file; None if there is no such file."""
    files: dict[str, int]
    """Images per folder, or images and labels per split; -1 if there is none."""
    sizes: dict[str, int]
    """Their bytes."""
    problem: str = ""
    """Why a split could not be listed."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host reports about itself."""

    code: Code
    versions: dict[str, str | None]
    """Python and the packages that ranks must agree on; None if one is not installed."""
    torch_is_for: dict[str, str | None]
    """Versions of CUDA and NCCL that torch was built for; None if it was built for CPUs only."""
    gpus: tuple[Gpu, ...]
    free_bytes: int
    """On the disk that runs are written to."""
    address: str
    """The first of `hostname -I`: on the first host, DeepSpeed's rendezvous address."""
    interfaces: tuple[Interface, ...]
    content: Content


@dataclass(frozen=True, slots=True)
class LinkMeasurement:
    """A host's link to the first host. Rates are one TCP stream's payload, in 10^6 bits per second."""

    local_address: str
    """This host's address on the link."""
    to_first_mbps: float
    from_first_mbps: float
    round_trip_seconds: float
    clock_offset_seconds: float
    """How far this host's clock is ahead of the first host's, to within half a round trip."""


@dataclass(frozen=True, slots=True)
class HostReport:
    """One listed host, and what was found out about it."""

    name: str
    slots: int | None
    """From the hostfile; None for this machine, which needs none."""
    facts: HostFacts | None
    problem: str = ""
    """Why there are no facts."""
    link: LinkMeasurement | None = None
    """None for the first host, and if it could not be measured."""
    link_problem: str = ""
