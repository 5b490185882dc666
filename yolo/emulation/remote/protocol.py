"""What the stand-ins for ssh and its server say to each other: a command, then pieces of output, then the exit code."""

import socket
import struct
from enum import IntEnum

PORT = 22
HEADER = struct.Struct("!BI")


class Kind(IntEnum):
    """Of a piece."""

    COMMAND = 0
    OUTPUT = 1
    """As is the number of standard output."""
    ERROR = 2
    EXIT = 3


def send(connection: socket.socket, kind: Kind, data: bytes) -> None:
    """Send one piece."""
    connection.sendall(HEADER.pack(kind, len(data)) + data)


def receive(connection: socket.socket) -> tuple[Kind, bytes]:
    """Wait for one piece. Raises ConnectionError where the other side has gone."""
    kind, length = HEADER.unpack(_exactly(connection, HEADER.size))
    return Kind(kind), _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise ConnectionError("Connection closed by remote host")
        data += piece
    return data
