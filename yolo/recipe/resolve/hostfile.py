"""DeepSpeed's list of hosts: one `name slots=N` per line, read as its launcher reads it."""

import re
from dataclasses import dataclass
from pathlib import Path

from yolo.errors import ClusterError
from yolo.recipe.load.safe_read import MOST_HOSTFILE_BYTES, read_bytes

LINE = re.compile(r"(\S+)\s+slots=(\d{1,6})\s*(#.*)?")
"""The launcher ignores the rest of a line, where a second host, for example, would be lost."""
NAME = re.compile(r"(\w[\w.-]*@)?[\w\[][\w.:%\]-]*", re.ASCII)
"""A host's name or address, optionally after `user@`; never what ssh reads as an option, or a shell as syntax."""


@dataclass(frozen=True, slots=True)
class ListedHost:
    """A host that ranks are started on."""

    name: str
    slots: int | None
    """None for this machine, which needs no hostfile."""

    @property
    def over_ssh(self) -> str | None:
        """The name for ssh; None for this machine. The launcher, too, reaches each listed host by ssh."""
        return None if self.slots is None else self.name


def read_hostfile(path: Path, nodes: int | None = None) -> list[ListedHost]:
    """The first `nodes` hosts of a hostfile (None: all); ranks rendezvous on the first.

    Raises ClusterError if the file cannot be read or lists fewer, or none.
    """
    try:
        text = read_bytes(path, MOST_HOSTFILE_BYTES).decode(errors="replace")
    except OSError as error:
        raise ClusterError(f"{path}: cannot be read: {error.strerror}") from error
    hosts: dict[str, ListedHost] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if not found or not NAME.fullmatch(found[1]) or not int(found[2]):
            raise ClusterError(
                f"{path}:{number}: {line[:60]!r}: expected a line `hostname slots=GPUs`"
            )
        name = found[1]
        if name in hosts:
            raise ClusterError(f"{path}:{number}: {name} is listed twice; remove one line")
        hosts[name] = ListedHost(name, int(found[2]))
    if not hosts:
        raise ClusterError(f"{path}: lists no hosts; expected lines `hostname slots=GPUs`")
    if nodes is not None and len(hosts) < nodes:
        raise ClusterError(
            f"{path}: lists {len(hosts)} hosts, and cluster.nodes is {nodes}; add hosts or lower cluster.nodes"
        )
    return list(hosts.values())[:nodes]
