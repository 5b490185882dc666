"""Read DeepSpeed's list of hosts as its launcher does: one `name slots=N` per line. Needs no torch."""

import re
from pathlib import Path

from yolo.errors import ClusterError
from yolo.recipe.load.safe_read import MOST_HOSTFILE_BYTES, read_bytes
from yolo.recipe.schema.distributed import ClusterSection

LINE = re.compile(r"(\S+)\s+slots=(\d{1,6})\s*(#.*)?")
"""The launcher ignores the rest of a line, where a second host, for example, would be lost."""
NAME = re.compile(r"(\w[\w.-]*@)?[\w\[][\w.:%\]-]*", re.ASCII)
"""A host's name or address, optionally after `user@`; never what ssh reads as an option, or a shell as syntax."""


def slots_by_host(cluster: ClusterSection) -> dict[str, int]:
    """The slots of the first `cluster.nodes` hosts of `cluster.hostfile`, in its order.

    Raises ClusterError if the list cannot be read or has fewer hosts.
    """
    assert cluster.hostfile is not None
    hosts = _read(Path(cluster.hostfile))
    if len(hosts) < cluster.nodes:
        raise ClusterError(
            f"{cluster.hostfile}: lists {len(hosts)} hosts, and cluster.nodes is {cluster.nodes}; add hosts or lower cluster.nodes"
        )
    return dict(list(hosts.items())[: cluster.nodes])


def _read(path: Path) -> dict[str, int]:
    try:
        text = read_bytes(path, MOST_HOSTFILE_BYTES).decode(errors="replace")
    except OSError as error:
        raise ClusterError(f"{path}: cannot be read: {error.strerror}") from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if not found or not NAME.fullmatch(found[1]):
            raise ClusterError(
                f"{path}:{number}: {line[:60]!r}: expected a line `hostname slots=GPUs`"
            )
        name = found[1]
        if name in hosts:
            raise ClusterError(f"{path}:{number}: {name} is listed twice; remove one line")
        hosts[name] = int(found[2])
    return hosts
