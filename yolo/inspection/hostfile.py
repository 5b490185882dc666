"""DeepSpeed's list of hosts, read as its launcher reads it: one `name slots=N` a line, the first `cluster.nodes` of them."""

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from yolo.errors import ClusterError
from yolo.recipe.needs import missing_hosts
from yolo.recipe.sections.cluster import ClusterSection

LINE = re.compile(r"(\S+)\s+slots=(\d+)")


@dataclass(frozen=True, slots=True)
class ListedHost:
    """A host that ranks are started on."""

    name: str
    slots: int | None
    """None for this machine alone, which needs no list."""

    @property
    def over_ssh(self) -> str | None:
        """What ssh calls it; None where it is this machine. The launcher, too, reaches each listed host by ssh."""
        return None if self.slots is None else self.name


def listed_hosts(cluster: ClusterSection) -> list[ListedHost]:
    """The hosts of a recipe, the first of which ranks meet on. Raises ClusterError where they cannot be told."""
    if cluster.nodes == 1:
        return [ListedHost(socket.gethostname(), None)]
    if lack := missing_hosts(cluster):
        raise ClusterError(lack)
    assert cluster.hostfile is not None
    hosts = _read(Path(cluster.hostfile))
    if len(hosts) < cluster.nodes:
        raise ClusterError(
            f"{cluster.hostfile}: lists {len(hosts)} hosts, and cluster.nodes is {cluster.nodes}; expected as many or more"
        )
    return hosts[: cluster.nodes]


def _read(path: Path) -> list[ListedHost]:
    hosts: dict[str, ListedHost] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = LINE.match(text)
        if not found or text.startswith("-"):  # which ssh would take for an option
            raise ClusterError(
                f"{path}:{number}: {text[:60]!r}: expected a line `hostname slots=GPUs`"
            )
        name = found[1]
        if name in hosts:
            raise ClusterError(f"{path}:{number}: {name} is listed twice; the launcher allows once")
        hosts[name] = ListedHost(name, int(found[2]))
    return list(hosts.values())
