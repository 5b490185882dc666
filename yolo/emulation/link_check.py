"""Is a link as slow as requested? Messages between hosts, timed against the time that their frames take.

A shaper lets a burst pass at once after every idle time. A training is idle between its steps, so a burst that is too
big shortens every message, most of all the small ones of a compressed run: a gain that no real network would give.

`python -m yolo.emulation.link_check answer ADDRESS` runs on the first host, `... ask ADDRESS SIZE ...` on another, which
times messages in both directions by its own clock and prints JSON.
"""

import json
import math
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from yolo.emulation.cluster import REPOSITORY, EmulatedCluster
from yolo.emulation.host import Host
from yolo.errors import BenchError

TOLERANCE = 0.05
SIZES = (64 * 2**10, 256 * 2**10, 2**20)
"""Payload bytes at up to 100 Mbit/s: messages of 6, 22 and 88 ms there. At higher rates they grow with the rate: a message
of only a few times the shaper's burst cannot be accurate to 5%."""
SIZES_MBPS = 100
LONGEST_MESSAGE_SECONDS = 0.2
"""At the link's rate; larger messages are made smaller."""
RETRY_SECONDS = 60.0
"""How long a link that seems too slow is tried again: other work may be in the way, on this machine or its hardware."""
TIMEOUT_SECONDS = 60.0

FRAME_BYTES = 1514
"""An Ethernet frame of 1500 bytes and its header, as counted by the shaper and the interface."""
PAYLOAD_BYTES = 1448
"""In a full frame, after the headers of Ethernet, IP and TCP with time stamps."""

IDLE_SECONDS = 0.02
"""Before each message, as between the steps of a training: the shaper's bucket is full again."""
TRIES = 5
PINGS = 20
PORT = 29400
CONNECT_SECONDS = 20.0
REQUEST = struct.Struct("!qq")
"""Bytes that follow this header, and bytes to send back."""


@dataclass(frozen=True, slots=True)
class LinkCheckRow:
    """Messages of one size in one direction between two hosts."""

    sender: str
    receiver: str
    size: int
    """Payload bytes."""
    ideal_seconds: float
    """Time of its frames at the link's rate, plus that of a message of 1 byte."""
    seconds: float
    """The fastest try: other work on the machine can only add to a message's time."""

    @property
    def deviation(self) -> float:
        """The fastest try's deviation from the ideal; 0.05 is 5% slower."""
        return self.seconds / self.ideal_seconds - 1

    def or_faster(self, other: "LinkCheckRow") -> "LinkCheckRow":
        """The minimum of both in each figure: other work can only add to a message, and to the one of 1 byte."""
        ideal = min(self.ideal_seconds, other.ideal_seconds)
        return replace(self, ideal_seconds=ideal, seconds=min(self.seconds, other.seconds))


def wire_bytes(payload: int) -> int:
    """Bytes of the Ethernet frames that carry `payload` bytes over TCP one way."""
    return payload + math.ceil(payload / PAYLOAD_BYTES) * (FRAME_BYTES - PAYLOAD_BYTES)


def measure(cluster: EmulatedCluster) -> list[LinkCheckRow]:
    """Time messages between the first host and each other, in both directions; no rows if links are not shaped."""
    if cluster.bandwidth_mbps is None:
        return []
    first, *others = cluster.hosts
    return [row for other in others for row in _between(first, other, cluster.bandwidth_mbps)]


def check(cluster: EmulatedCluster) -> list[LinkCheckRow]:
    """Measure, again for a while if links seem too slow, and keep the fastest of all tries.

    Raises BenchError with the figures if a message is off by more than 5%.
    """
    rows = measure(cluster)
    deadline = time.monotonic() + RETRY_SECONDS
    while any(row.deviation > TOLERANCE for row in rows) and time.monotonic() < deadline:
        rows = [row.or_faster(other) for row, other in zip(rows, measure(cluster), strict=True)]
    wrong = [row for row in rows if abs(row.deviation) > TOLERANCE]
    if wrong:
        figures = "; ".join(
            f"{row.size} bytes from {row.sender} to {row.receiver} took {row.seconds * 1e3:.2f} ms, expected "
            f"{row.ideal_seconds * 1e3:.2f} ms within {TOLERANCE:.0%}"
            for row in wrong
        )
        raise BenchError(
            f"the links do not have {cluster.bandwidth_mbps:g} Mbit/s, so measurements on them would be wrong: {figures}. "
            "If they are too slow, stop other work on the machine or set a lower bandwidth"
        )
    return rows


def _between(first: Host, other: Host, bandwidth_mbps: float) -> list[LinkCheckRow]:
    most = LONGEST_MESSAGE_SECONDS * bandwidth_mbps * 1e6 / 8 * PAYLOAD_BYTES / FRAME_BYTES
    growth = max(1.0, bandwidth_mbps / SIZES_MBPS)
    sizes = sorted({min(int(size * growth), int(most)) for size in SIZES})
    program = [sys.executable, "-m", "yolo.emulation.link_check"]
    server = first.run([*program, "answer", first.address], folder=REPOSITORY)
    client = other.run(
        [*program, "ask", first.address, *map(str, sizes)],
        folder=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, error = client.communicate(timeout=TIMEOUT_SECONDS)
        failure = error.decode().strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        failure = f"not done after {TIMEOUT_SECONDS:g} s"
    finally:
        for host in (first, other):
            host.kill_all()
        client.wait()
        server.wait()
    if client.returncode:
        raise BenchError(f"messages between {other.name} and {first.name}: {failure}")
    found = json.loads(out)
    rows = []
    for size, to_first, from_first in found["messages"]:
        ideal = found["ping"] + wire_bytes(size) * 8 / (bandwidth_mbps * 1e6)
        rows.append(LinkCheckRow(other.name, first.name, size, ideal, to_first))
        rows.append(LinkCheckRow(first.name, other.name, size, ideal, from_first))
    return rows


def answer(address: str) -> None:
    """Serve the requests of one other host until it disconnects."""
    with socket.create_server((address, PORT)) as listener:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while header := connection.recv(REQUEST.size, socket.MSG_WAITALL):
                follows, wanted = REQUEST.unpack(header)
                _receive(connection, follows)
                connection.sendall(bytes(wanted))


def ask(address: str, sizes: Sequence[int]) -> None:
    """Time messages of some sizes in bytes, in both directions, and print the seconds of the fastest tries."""
    with _connect(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sent, wanted in ((sizes[-1], 1), (1, sizes[-1])):
            _exchange(connection, sent, wanted)  # TCP adapts to the link
        ping = min(_exchange(connection, 1, 1) for _ in range(PINGS))
        messages = []
        for size in sizes:
            to_first = min(_exchange(connection, size, 1) for _ in range(TRIES))
            from_first = min(_exchange(connection, 1, size) for _ in range(TRIES))
            messages.append((size, to_first, from_first))
    print(json.dumps({"ping": ping, "messages": messages}))


def _exchange(connection: socket.socket, sent: int, wanted: int) -> float:
    """Seconds from the first byte sent to the last received."""
    message = REQUEST.pack(sent, wanted) + bytes(sent)
    time.sleep(IDLE_SECONDS)
    started = time.perf_counter()
    connection.sendall(message)
    _receive(connection, wanted)
    return time.perf_counter() - started


def _receive(connection: socket.socket, size: int) -> None:
    buffer = bytearray(min(size, 2**20))
    while size:
        got = connection.recv_into(buffer, min(size, len(buffer)))
        if not got:
            raise ConnectionError("the other host disconnected")
        size -= got


def _connect(address: str) -> socket.socket:
    """Connect as soon as the other program listens."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return socket.create_connection((address, PORT), timeout=CONNECT_SECONDS)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(IDLE_SECONDS)


if __name__ == "__main__":
    if sys.argv[1] == "answer":
        answer(sys.argv[2])
    else:
        ask(sys.argv[2], [int(size) for size in sys.argv[3:]])
