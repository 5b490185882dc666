"""What is asked of a host and what it answers. The standard library alone, so that also a host that lacks packages can say so."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What a host is to look at; paths are relative to the repository's folder."""

    files: Sequence[str]
    """To be compared by their content: the recipe, annotations, weights."""
    folders: Sequence[str]
    """To be compared by the number and size of the images in them."""
    splits: Sequence[Sequence[str]]
    """Pairs of a data.yaml and a split in it, whose images and labels are compared likewise."""
    seconds: int
    """After which the host gives up."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    memory_mib: int
    """0 where the driver's tool does not tell."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface that has an IPv4 address."""

    name: str
    address: str
    mtu: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Code:
    """The repository as it lies on a host."""

    commit: str | None
    """None where git does not answer; `problem` is what it said."""
    changed: int
    """Files that differ from the commit or are not in it."""
    source: str
    """Digest of the package's Python files, whatever git says."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """The data that the recipe names."""

    digests: dict[str, str | None]
    """sha256 by file; None where there is no such file."""
    files: dict[str, int]
    """Images in each folder, or images and labels of each split; -1 where there is none."""
    sizes: dict[str, int]
    """Their bytes."""
    problem: str = ""
    """Why a split could not be listed."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host says of itself."""

    code: Code
    versions: dict[str, str | None]
    """Of Python and the packages that ranks must agree on; None where one is not installed."""
    torch_is_for: dict[str, str | None]
    """Versions of CUDA and NCCL that torch was built for; None for a torch of processors."""
    gpus: tuple[Gpu, ...]
    free_bytes: int
    """On the disk that runs are written to."""
    address: str
    """The first that `hostname -I` names: on the first host, DeepSpeed has the ranks meet there."""
    interfaces: tuple[Interface, ...]
    content: Content

    def interface(self, address: str) -> Interface | None:
        """The one that has an address."""
        return next((each for each in self.interfaces if each.address == address), None)


@dataclass(frozen=True, slots=True)
class LinkMeasurement:
    """What one host measured to the first one. Rates are of one TCP stream's payload, in 10^6 bits a second."""

    local_address: str
    """By which this host reaches the first."""
    to_first_mbps: float
    from_first_mbps: float
    round_trip_seconds: float
    clock_offset_seconds: float
    """How far this host's clock is ahead of the first host's, known to half a round trip."""


@dataclass(frozen=True, slots=True)
class HostReport:
    """One host of the list, and what could be found out about it."""

    name: str
    slots: int | None
    """As the list of hosts says; None for this machine alone."""
    facts: HostFacts | None
    problem: str = ""
    """Why there are no facts."""
    link: LinkMeasurement | None = None
    """None for the first host, and where it could not be measured."""
    link_problem: str = ""
