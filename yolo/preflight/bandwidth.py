"""Bandwidth, round trip and clock offset between a host and the first one, over plain TCP as the ranks use it.

`python -m yolo.preflight.bandwidth serve SECONDS` on the first host prints the port it listens on, and ends with its
standard input or after SECONDS; `... measure ADDRESS PORT` on another host measures and prints JSON. It is one TCP
stream, 30 Gbit/s over the loopback of one core: it tells a slow network from a fast one, but does not measure a fast one.
If a round trip takes more than about 50 ms, TCP has not reached its rate yet. NCCL's own InfiniBand path is not measured.
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
from yolo.preflight.ssh import EXPLAINED

WARM_UP_SECONDS = 0.4
"""Before the measurement, for TCP to reach its rate."""
MEASURE_SECONDS = 0.6
CONNECT_SECONDS = 5.0
"""TCP repeats its first packet after 1 s and 3 s: by then, a firewall that drops it is detected."""
SILENCE_SECONDS = 10.0
"""Timeout for the other side to send anything."""
BLOCK_BYTES = 2**18
PINGS = 20
CLOCK, UPLOAD, DOWNLOAD = b"c", b"u", b"d"
"""First byte of a connection: what is requested of the first host."""
RATE = struct.Struct("!d")
TIMES = struct.Struct("!dd")
DROP_UNSENT = struct.pack("ii", 1, 0)  # for SO_LINGER

Clock = Callable[[], float]
"""Seconds since the epoch."""


def serve(listener: socket.socket, until: int, clock: Clock = time.time) -> None:
    """Serve one connection after another until the file descriptor `until` ends."""
    watched: list[socket.socket | int] = [listener, until]
    while until not in select.select(watched, [], [])[0]:
        connection, _ = listener.accept()
        # The other side reports a lost or silent connection.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(SILENCE_SECONDS)
            request = connection.recv(1)
            if request == CLOCK:
                _send_times(connection, clock)
            elif request == UPLOAD:
                receive_and_measure(connection)
            elif request == DOWNLOAD:
                send_until_measured(connection)


def measure_link(address: str, port: int) -> LinkMeasurement:
    """Measure the link to a host that serves. Raises OSError."""
    with _connect(address, port, CLOCK) as connection:
        local_address = connection.getsockname()[0]
        round_trip, offset = compare_clocks(connection)
    with _connect(address, port, UPLOAD) as connection:
        to_first = send_until_measured(connection)
    with _connect(address, port, DOWNLOAD) as connection:
        from_first = receive_and_measure(connection)
    return LinkMeasurement(local_address, to_first, from_first, round_trip, offset)


def compare_clocks(connection: socket.socket, clock: Clock = time.time) -> tuple[float, float]:
    """The shortest round trip in seconds, and how far this clock is ahead of the server's (RFC 5905, section 8).

    The error is at most half the round trip, and 0 if both directions take equally long.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    samples = []
    for _ in range(PINGS):
        sent = clock()
        connection.sendall(CLOCK)
        there_received, there_sent = TIMES.unpack(_receive(connection, TIMES.size))
        received = clock()
        round_trip = (received - sent) - (there_sent - there_received)
        ahead = ((sent - there_received) + (received - there_sent)) / 2
        samples.append((round_trip, ahead))
    return min(samples)


def _send_times(connection: socket.socket, clock: Clock) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while connection.recv(1):
        received = clock()
        connection.sendall(TIMES.pack(received, clock()))


def receive_and_measure(connection: socket.socket) -> float:
    """Receive for a second, and report the rate to the sender: 10^6 bits per second.

    The receiver measures, because the sender only sees how fast its own buffers take the bytes.
    """
    buffer = bytearray(BLOCK_BYTES)

    def receive_until(end: float) -> tuple[int, float]:
        total, now = 0, time.perf_counter()
        while now < end:
            got = connection.recv_into(buffer)
            if not got:
                raise ConnectionError("the other host hung up")
            total += got
            now = time.perf_counter()
        return total, now

    _, began = receive_until(time.perf_counter() + WARM_UP_SECONDS)
    total, ended = receive_until(began + MEASURE_SECONDS)
    mbps = total * 8 / (ended - began) / 1e6
    connection.sendall(RATE.pack(mbps))
    # If the connection were closed at once, the kernel might reset it before the rate is read.
    with contextlib.suppress(OSError):
        while connection.recv_into(buffer):
            pass
    return mbps


def send_until_measured(connection: socket.socket) -> float:
    """Send as fast as possible until the receiver reports the rate."""
    block = bytes(BLOCK_BYTES)
    while True:
        readable, writable, _ = select.select([connection], [connection], [], SILENCE_SECONDS)
        if readable:
            rate: float = RATE.unpack(_receive(connection, RATE.size))[0]
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DROP_UNSENT)
            return rate
        if not writable:
            raise TimeoutError(f"nothing was sent within {SILENCE_SECONDS:g} s")
        connection.send(block)  # as much as fits: the socket has a timeout


def _receive(connection: socket.socket, size: int) -> bytes:
    message = b""
    while len(message) < size:
        got = connection.recv(size - len(message))
        if not got:
            raise ConnectionError("the other host hung up")
        message += got
    return message


def _connect(address: str, port: int, request: bytes) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=CONNECT_SECONDS)
    connection.settimeout(SILENCE_SECONDS)
    connection.sendall(request)
    return connection


def main() -> int:
    """Serve or measure; returns the exit code."""
    if sys.argv[1] == "serve":
        signal.alarm(int(sys.argv[2]))
        with socket.create_server(("", 0)) as listener:
            print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
            serve(listener, sys.stdin.fileno())
        return 0
    address, port = sys.argv[2], int(sys.argv[3])
    try:
        print(json.dumps(asdict(measure_link(address, port))))
    except OSError as error:
        print(
            f"{address}:{port}: {error.strerror or error}; ranks rendezvous at that address, the first of `hostname -I` "
            "there: expected one in the network that the hosts share, and no firewall between them",
            file=sys.stderr,
        )
        return EXPLAINED
    return 0


if __name__ == "__main__":
    sys.exit(main())
