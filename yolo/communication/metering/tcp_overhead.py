"""What gloo's TCP adds to its payload on the wire."""

import os
import socket
from pathlib import Path

import psutil

FRAME_BYTES = 14 + 20 + 32
"""Each segment's headers: Ethernet, IP, and TCP with time stamps."""
IP_AND_TCP_BYTES = 20 + 32
"""Those of them that the interface's MTU has to hold beside the payload."""
SEGMENTS_PER_ACKNOWLEDGEMENT = 4
"""Between the 2 of a slow link and the many that a fast one answers together (measured: acknowledgements add 2.2% at
100 Mbit/s and 0.3 to 1.1% at 1 Gbit/s)."""
UNKNOWN_MTU = 1500
LOOPBACK = "lo"


def tcp_bytes_per_payload_byte() -> float:
    """Bytes on the wire for each byte that gloo sends, in full segments, with acknowledgements of as many received.

    Where some ranks share a machine and others do not, all are taken to send through the network.
    """
    frames = 1 + 1 / SEGMENTS_PER_ACKNOWLEDGEMENT
    return 1 + frames * FRAME_BYTES / (_mtu(gloo_interface()) - IP_AND_TCP_BYTES)


def gloo_interface() -> str | None:
    """What the user named; else the loopback within one machine, or the interface of the host name's address."""
    named = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if named:
        return named
    local_ranks = os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE")
    if local_ranks == os.environ.get("WORLD_SIZE"):
        return LOOPBACK  # also to the machine's own outer address: the kernel does not send it out
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return LOOPBACK  # as gloo does
    for interface, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            return interface
    return None


def _mtu(interface: str | None) -> int:
    try:
        return int(Path(f"/sys/class/net/{interface}/mtu").read_text())
    except (OSError, ValueError):
        return UNKNOWN_MTU
