"""Bandwidth, round trip and clock between a host and the first one, over plain TCP as the ranks use it.

`python -m yolo.preflight.bandwidth answer SECONDS` on the first host prints the port it listens on, and ends with its
standard input or after so long; `... ask ADDRESS PORT` on another measures and prints JSON. It is one TCP stream, 30
Gbit/s over the loopback of one core: a faster network is told from a slow one, not measured. Where a round trip takes
more than about 50 ms, TCP is still finding its rate. What NCCL moves by InfiniBand's own means does not pass here.
"""

import contextlib
import json
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from yolo.preflight.host_info import LinkMeasurement
from yolo.preflight.ssh import TOLD

WARM_SECONDS = 0.4
"""Before the rate is taken, for TCP to find it."""
MEASURE_SECONDS = 0.6
CONNECT_SECONDS = 5.0
"""TCP's first packet is sent again after 1 s, and after 3: a firewall that drops it is known by then."""
PATIENCE_SECONDS = 10.0
"""For the other side to say anything."""
BLOCK_BYTES = 2**18
PINGS = 20
TELL_CLOCK, TAKE, GIVE = b"c", b"t", b"g"
"""What the first byte of a connection asks of the first host."""
FIGURE = struct.Struct("!d")
CLOCK = struct.Struct("!dd")
DROP = struct.pack("ii", 1, 0)
"""SO_LINGER's: forget what was not sent yet."""

Clock = Callable[[], float]
"""Seconds since the epoch."""


def answer(listener: socket.socket, until: int, clock: Clock = time.time) -> None:
    """Serve one connection after another until the file descriptor `until` ends."""
    watched: list[socket.socket | int] = [listener, until]
    while until not in select.select(watched, [], [])[0]:
        connection, _ = listener.accept()
        # Whoever hangs up or is silent is the other side's to tell.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE_SECONDS)
            match connection.recv(1):
                case b"c":
                    _tell_clock(connection, clock)
                case b"t":
                    measure_incoming(connection)
                case b"g":
                    send_until_told(connection)


def ask(address: str, port: int) -> LinkMeasurement:
    """Measure the link to a host that answers. Raises OSError."""
    with _connect(address, port, TELL_CLOCK) as connection:
        local_address = connection.getsockname()[0]
        round_trip, offset = compare_clocks(connection)
    with _connect(address, port, TAKE) as connection:
        to_first = send_until_told(connection)
    with _connect(address, port, GIVE) as connection:
        broadcast_object = measure_incoming(connection)
    return LinkMeasurement(local_address, to_first, broadcast_object, round_trip, offset)


def compare_clocks(connection: socket.socket, clock: Clock = time.time) -> tuple[float, float]:
    """The shortest round trip in seconds, and how far this clock is ahead of the answering one (RFC 5905, section 8).

    The error is at most half the round trip, and 0 where both ways take equally long.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    samples = []
    for _ in range(PINGS):
        sent = clock()
        connection.sendall(TELL_CLOCK)
        there_received, there_sent = CLOCK.unpack(_receive(connection, CLOCK.size))
        received = clock()
        round_trip = (received - sent) - (there_sent - there_received)
        ahead = ((sent - there_received) + (received - there_sent)) / 2
        samples.append((round_trip, ahead))
    return min(samples)


def _tell_clock(connection: socket.socket, clock: Clock) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while connection.recv(1):
        received = clock()
        connection.sendall(CLOCK.pack(received, clock()))


def measure_incoming(connection: socket.socket) -> float:
    """Take what comes for a second, and tell the sender how fast it came: 10^6 bits a second.

    The receiver measures, because the sender only sees how fast its own buffers take the bytes.
    """
    buffer = bytearray(BLOCK_BYTES)

    def take_until(end: float) -> tuple[int, float]:
        total, now = 0, time.perf_counter()
        while now < end:
            got = connection.recv_into(buffer)
            if not got:
                raise ConnectionError("the other host hung up")
            total += got
            now = time.perf_counter()
        return total, now

    _, began = take_until(time.perf_counter() + WARM_SECONDS)
    total, ended = take_until(began + MEASURE_SECONDS)
    mbps = total * 8 / (ended - began) / 1e6
    connection.sendall(FIGURE.pack(mbps))
    with contextlib.suppress(
        OSError
    ):  # closed at once, the kernel might reset the line before the figure is read
        while connection.recv_into(buffer):
            pass
    return mbps


def send_until_told(connection: socket.socket) -> float:
    """Send as fast as it goes until the receiver says how fast it came."""
    block = bytes(BLOCK_BYTES)
    while True:
        readable, writable, _ = select.select([connection], [connection], [], PATIENCE_SECONDS)
        if readable:
            figure: float = FIGURE.unpack(_receive(connection, FIGURE.size))[0]
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DROP)
            return figure
        if not writable:
            raise TimeoutError(f"nothing got through in {PATIENCE_SECONDS:g} s")
        connection.send(block)  # as much as there is room for: the socket has a timeout


def _receive(connection: socket.socket, size: int) -> bytes:
    message = b""
    while len(message) < size:
        got = connection.recv(size - len(message))
        if not got:
            raise ConnectionError("the other host hung up")
        message += got
    return message


def _connect(address: str, port: int, wish: bytes) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=CONNECT_SECONDS)
    connection.settimeout(PATIENCE_SECONDS)
    connection.sendall(wish)
    return connection


def main() -> int:
    """Answer or ask; returns the exit code."""
    if sys.argv[1] == "answer":
        signal.alarm(int(sys.argv[2]))
        with socket.create_server(("", 0)) as listener:
            print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
            answer(listener, sys.stdin.fileno())
        return 0
    address, port = sys.argv[2], int(sys.argv[3])
    try:
        print(json.dumps(asdict(ask(address, port))))
    except OSError as error:
        print(
            f"{address}:{port}: {error.strerror or error}; ranks meet at that address, the first of `hostname -I` there: "
            "expected one in the network that the hosts share, and no firewall between them",
            file=sys.stderr,
        )
        return TOLD
    return 0


if __name__ == "__main__":
    sys.exit(main())
