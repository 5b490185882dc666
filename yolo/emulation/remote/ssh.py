"""`ssh [-x] [-o NAME=VALUE]... HOST COMMAND...` between emulated hosts, and its protocol: a command, pieces of output, an exit code.

Of its options, only those that limit waiting have an effect.
"""

import getopt
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

PORT = 22
HEADER = struct.Struct("!BI")
FAILED = 255
"""OpenSSH's exit code for failures of its own."""
CONNECT_SECONDS = 130.0
"""OpenSSH's without ConnectTimeout: Linux gives up then."""


class Kind(IntEnum):
    """The kind of a piece."""

    COMMAND = 0
    OUTPUT = 1
    """Also the number of standard output."""
    ERROR = 2
    EXIT = 3


def send(connection: socket.socket, kind: Kind, data: bytes) -> None:
    """Send one piece."""
    connection.sendall(HEADER.pack(kind, len(data)) + data)


def receive(connection: socket.socket) -> tuple[Kind, bytes]:
    """Wait for one piece. Raises ConnectionError if the other side is gone."""
    kind, length = HEADER.unpack(_exactly(connection, HEADER.size))
    return Kind(kind), _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = connection.recv(length, socket.MSG_WAITALL)
    if len(data) < length:
        raise ConnectionError("Connection closed by remote host")
    return data


def main(words: Sequence[str]) -> int:
    """Run a command on a host; returns its exit code."""
    options, (host, *command) = split(words)

    def write(kind: Kind, data: bytes) -> None:
        stream = sys.stdout if kind is Kind.OUTPUT else sys.stderr
        stream.buffer.write(data)
        stream.flush()

    try:
        return run(host, " ".join(command), options, write)
    except OSError as error:
        reason = error.strerror or error
        print(f"ssh: connect to host {host} port {PORT}: {reason}", file=sys.stderr)
        return FAILED


def split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split a command line into options by name, and the remaining words."""
    given, left = getopt.getopt(list(words), "o:x")
    texts = [text.partition("=") for option, text in given if option == "-o"]
    return {name: value for name, _, value in texts}, left


def run(
    host: str, command: str, options: Mapping[str, str], write: Callable[[Kind, bytes], None]
) -> int:
    """Run a command on a host, pass on its output, and return its exit code.

    Raises OSError if the host cannot be reached, or is silent for longer than ServerAliveInterval and ServerAliveCountMax
    allow.
    """
    seconds = float(options.get("ConnectTimeout", CONNECT_SECONDS))
    with socket.create_connection((host, PORT), timeout=seconds) as connection:
        connection.settimeout(None)
        if interval := int(options.get("ServerAliveInterval", "0")):
            _probe(connection, interval, int(options.get("ServerAliveCountMax", "3")))
        send(connection, Kind.COMMAND, command.encode())
        while True:
            kind, data = receive(connection)
            if kind is Kind.EXIT:
                return data[0]
            write(kind, data)


def _probe(connection: socket.socket, interval: int, count: int) -> None:
    """Let the kernel probe as OpenSSH does: the host may be silent for at most interval x (count + 1) seconds."""
    for option, value in (
        (socket.TCP_KEEPIDLE, interval),
        (socket.TCP_KEEPINTVL, interval),
        (socket.TCP_KEEPCNT, count),
        (socket.TCP_USER_TIMEOUT, 1000 * interval * (count + 1)),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
