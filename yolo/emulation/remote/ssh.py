"""`ssh [-o NAME=VALUE]... HOST COMMAND...` between emulated hosts; of its options, those count that say how long to wait."""

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from yolo.emulation.remote.protocol import PORT, Kind, receive, send

FAILED = 255
"""OpenSSH's exit code for failures of its own."""
CONNECT_SECONDS = 130.0
"""OpenSSH's without ConnectTimeout: Linux gives up then."""


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
        print(
            f"ssh: connect to host {host} port {PORT}: {error.strerror or error}", file=sys.stderr
        )
        return FAILED


def split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Options by name, and the words behind them."""
    options, left = {}, list(words)
    while left and left[0] == "-o":
        name, _, value = left[1].partition("=")
        options[name] = value
        left = left[2:]
    return options, left


def run(
    host: str,
    command: str,
    options: Mapping[str, str],
    write: Callable[[Kind, bytes], None],
) -> int:
    """Run a command on a host, hand on what it prints, and return its exit code.

    Raises OSError where the host cannot be reached, or is not any more for as long as ServerAliveInterval and
    ServerAliveCountMax allow.
    """
    seconds = float(options.get("ConnectTimeout", CONNECT_SECONDS))
    with socket.create_connection((host, PORT), timeout=seconds) as connection:
        connection.settimeout(None)
        if interval := int(options.get("ServerAliveInterval", "0")):
            _ask_for_life(connection, interval, int(options.get("ServerAliveCountMax", "3")))
        send(connection, Kind.COMMAND, command.encode())
        while True:
            kind, data = receive(connection)
            if kind is Kind.EXIT:
                return data[0]
            write(kind, data)


def _ask_for_life(connection: socket.socket, interval: int, count: int) -> None:
    """The kernel's probes do what OpenSSH's messages do: nothing is heard for interval x (count + 1) seconds at most."""
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
