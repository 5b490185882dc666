"""The hosts that a recipe's ranks are started on: this machine, or those of DeepSpeed's list."""

import socket
from dataclasses import dataclass

from yolo.errors import ClusterError
from yolo.preflight.local import missing_hosts
from yolo.recipe.load.hostfile import slots_by_host
from yolo.recipe.schema.distributed import ClusterSection


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
    return [ListedHost(name, slots) for name, slots in slots_by_host(cluster).items()]
