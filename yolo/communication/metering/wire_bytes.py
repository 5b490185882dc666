"""Bytes that a rank sends in a collective: the formulae of the algorithms, and the headers of gloo's TCP. Needs no torch."""

import math
import os
import socket
from pathlib import Path

import psutil

GLOO_MESSAGE_BYTES = 144
"""gloo's own, per message: a header, and the two notes by which sender and receiver agree on it (measured)."""
GLOO_SEGMENT_BYTES = 2**20
"""Largest message of a ring; a small payload takes two messages per rank."""
FRAME_BYTES = 14 + 20 + 32
"""Headers of each segment: Ethernet, IP, and TCP with time stamps."""
IP_AND_TCP_BYTES = 20 + 32
"""Those that count towards the interface's MTU."""
SEGMENTS_PER_ACKNOWLEDGEMENT = 4
"""Between the 2 of a slow link and the many that a fast one acknowledges together (measured: acknowledgements add 2.2% at
100 Mbit/s and 0.3 to 1.1% at 1 Gbit/s)."""
POINT_TO_POINT = "point_to_point"
"""Messages to single ranks, as of halos: the payload is what a rank sends."""
UNKNOWN_MTU = 1500
LOOPBACK = "lo"


def sent_bytes(
    kind: str, payload_bytes: float, ranks: int, is_gloo: bool, messages: float = 1
) -> float:
    """Bytes that a rank hands to TCP (or to NCCL's transport) in one collective, as the mean over the ranks.

    `messages`: how many the rank sends, if the kind is point_to_point. ValueError for a kind without a formula.
    """
    if kind != POINT_TO_POINT:
        messages = _gloo_messages(kind, payload_bytes, ranks)
    messages *= is_gloo
    return payload_bytes * sent_share(kind, ranks, is_gloo) + messages * GLOO_MESSAGE_BYTES


def _gloo_messages(kind: str, payload_bytes: float, ranks: int) -> float:
    """Messages that a rank sends, as the mean over the ranks: counted on 2, 3 and 4 of them."""
    others = ranks - 1
    segments = max(2, math.ceil(math.ceil(payload_bytes / GLOO_SEGMENT_BYTES) / ranks))
    match kind:
        case "all_reduce" | "reduce_scatter":
            return 2 * others * segments
        case "reduce":
            return others * segments + others / ranks
        case "all_gather":
            return 2 * others
        case "all_to_all":
            return others
        case _:
            return others / ranks


def sent_share(kind: str, ranks: int, is_gloo: bool) -> float:
    """Bytes that a rank sends per byte of payload; as the mean over the ranks it receives as many.

    The payload is what is reduced or scattered, or what has been gathered. ValueError for a kind without a formula.
    """
    others = (ranks - 1) / ranks
    match kind:
        case "point_to_point":
            return 1.0
        case "all_reduce":
            return 2 * others
        case "reduce":
            # gloo reduces and scatters, then gathers what the root does not have yet (measured; above 4 MiB it sends
            # some parts again, up to half as much in all).
            return others * (1 + 1 / ranks if is_gloo else 1)
        case "reduce_scatter":
            # gloo's is an all-reduce and a copy (measured); NCCL sends half of that.
            return (2 if is_gloo else 1) * others
        case "broadcast" | "all_gather" | "gather" | "scatter" | "all_to_all":
            return others
        case _:
            raise ValueError(f"{kind}: unknown kind of collective")


def tcp_bytes_per_payload_byte() -> float:
    """Bytes on the wire per byte that gloo sends: full segments, and acknowledgements of as many received.

    If only some ranks share a machine, all are assumed to send through the network.
    """
    try:
        mtu = int(Path(f"/sys/class/net/{gloo_interface()}/mtu").read_text())
    except (OSError, ValueError):
        mtu = UNKNOWN_MTU
    frames = 1 + 1 / SEGMENTS_PER_ACKNOWLEDGEMENT
    return 1 + frames * FRAME_BYTES / (mtu - IP_AND_TCP_BYTES)


def gloo_interface() -> str | None:
    """The interface that the user named; else loopback within one machine, or that of the host name's address."""
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
