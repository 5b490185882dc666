"""DeepSpeed's list of hosts, read as its launcher reads it: one `name slots=N` a line. Needs no torch."""

import re
from pathlib import Path

from yolo.errors import ClusterError
from yolo.recipe.load.safe_read import MOST_HOSTFILE_BYTES, read_bytes
from yolo.recipe.schema.distributed import ClusterSection

LINE = re.compile(r"(\S+)\s+slots=(\d{1,6})\s*(#.*)?")
"""The launcher would not mind what stands behind: a second host, say, would be lost."""
NAME = re.compile(r"(\w[\w.-]*@)?[\w\[][\w.:%\]-]*", re.ASCII)
"""A host's name or address, with a user's before it: what ssh would take for an option, and a shell for its own, is neither."""


def slots_by_host(cluster: ClusterSection) -> dict[str, int]:
    """The slots of the first `cluster.nodes` hosts of `cluster.hostfile`, in its order.

    Raises ClusterError where the list cannot be read, or is of fewer hosts.
    """
    assert cluster.hostfile is not None
    hosts = _read(Path(cluster.hostfile))
    if len(hosts) < cluster.nodes:
        raise ClusterError(
            f"{cluster.hostfile}: lists {len(hosts)} hosts, and cluster.nodes is {cluster.nodes}; expected as many or more"
        )
    return dict(list(hosts.items())[: cluster.nodes])


def _read(path: Path) -> dict[str, int]:
    try:
        text = read_bytes(path, MOST_HOSTFILE_BYTES).decode(errors="replace")
    except OSError as error:
        raise ClusterError(f"{path}: cannot be read: {error.strerror}") from error
    hosts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stated = line.strip()
        if not stated or stated.startswith("#"):
            continue
        found = LINE.fullmatch(stated)
        if not found or not NAME.fullmatch(found[1]):
            raise ClusterError(
                f"{path}:{number}: {stated[:60]!r}: expected a line `hostname slots=GPUs`"
            )
        name = found[1]
        if name in hosts:
            raise ClusterError(f"{path}:{number}: {name} is listed twice; the launcher allows once")
        hosts[name] = int(found[2])
    return hosts
