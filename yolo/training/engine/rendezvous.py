"""Where the ranks of one start meet: a store at MASTER_ADDR and MASTER_PORT, which the main rank's process holds.

Two runs may come to the same port. So the store has the token of the start that it belongs to (`FencingToken`), and a rank
of another start is refused before anything is exchanged.
"""

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.rendezvous import register_rendezvous_handler
from torch.distributed.rendezvous import rendezvous as env_rendezvous

from yolo.errors import LaunchError
from yolo.exit_codes import PORT_TAKEN

KEY = "yolo/start"
SCHEME = "yolo"


class PortTaken(LaunchError):
    """Another run, or another program, has the port."""

    exit_code = PORT_TAKEN

    def __init__(self, what: str) -> None:
        port = os.environ.get("MASTER_PORT", "")
        super().__init__(
            f"cluster.master_port {port}: {what}; start again, or set another (`auto` takes the next by itself)"
        )


def init_method(token: str) -> str:
    """The `init_method` by which torch, or DeepSpeed for it, meets the other ranks of a start here."""
    return f"{SCHEME}://?{urlencode({'start': token})}"


def _handler(url: str, timeout: timedelta, **_: Any) -> Iterator[tuple[Store, int, int]]:
    yield rendezvous(parse_qs(urlsplit(url).query).get("start", [""])[0], timeout)


register_rendezvous_handler(SCHEME, _handler)


def rendezvous(token: str, timeout: timedelta) -> tuple[Store, int, int]:
    """Meet the other ranks; returns the store, this process's rank and the world size.

    Raises PortTaken if the store cannot be opened, or is another start's; torch's errors if ranks do not come in time.
    """
    try:
        store, rank, world_size = next(env_rendezvous("env://", timeout=timeout))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            raise PortTaken("another program on the first host uses the port") from error
        raise
    if rank == 0:
        store.set(KEY, token)
    try:
        found = store.get(KEY).decode()
    except dist.DistNetworkError as error:
        raise PortTaken("what the ranks met at has ended") from error
    if found != token:
        raise PortTaken("the ranks of another run meet there")
    return store, rank, world_size


def connect(token: str, timeout: timedelta) -> TCPStore:
    """A further connection to the store, with a timeout of its own.

    Raises OSError or RuntimeError if the store is gone, or another start's.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Tried first: torch would retry all that time, and then print a stack of its own.
    socket.create_connection((address, port), timeout=timeout.total_seconds()).close()
    store = TCPStore(address, port, is_master=False, timeout=timeout, wait_for_workers=False)
    if not store.check([KEY]) or store.get(KEY).decode() != token:
        raise ConnectionRefusedError(f"port {port} is another run's")
    return store
