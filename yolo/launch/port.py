"""The port at which the ranks of a start meet, kept from other runs that this machine starts."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from yolo.recipe.schema.distributed import ClusterSection

DEFAULT_PORT = 29500
"""The deepspeed launcher's own default."""
HIGHEST_PORT = 65535


@contextmanager
def reserved_port(cluster: ClusterSection, first: int = DEFAULT_PORT) -> Iterator[int]:
    """`cluster.master_port`; if it is `auto`, the first free one from `first` on, which stays reserved within the context.

    A port that a run from another machine holds on the first host is noticed by the ranks (`PortTaken`).
    """
    if cluster.master_port != "auto":
        yield cluster.master_port
        return
    with socket.socket() as holder:
        yield _bind_first_free(holder, first)


def _bind_first_free(holder: socket.socket, first: int) -> int:
    """Bind a socket without listening, at the first port from `first` on that no socket is bound to; `first` if none is free.

    With SO_REUSEADDR, set afterwards, the main rank's store may listen there all the same: it sets it too.
    """
    for port in range(first, HIGHEST_PORT):
        try:
            holder.bind(("", port))
        except OSError:
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return port
    return first
