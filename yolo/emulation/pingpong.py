"""What the gate runs on the hosts: messages to and from the first host, timed on another one by a single clock.

`python -m yolo.emulation.pingpong answer ADDRESS` on the first, `... ask ADDRESS SIZE ...` on the other, which prints JSON.
"""

import json
import socket
import struct
import sys
import time
from collections.abc import Sequence

IDLE_SECONDS = 0.02
"""Before each message, as between the steps of a training: the shaper's bucket is full again."""
TRIES = 5
PINGS = 20
PORT = 29400
CONNECT_SECONDS = 20.0
REQUEST = struct.Struct("!qq")
"""Bytes that follow this, and bytes that are wanted back."""


def answer(address: str) -> None:
    """Do what one other host asks for, until it hangs up."""
    with socket.create_server((address, PORT)) as listener:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := connection.recv(REQUEST.size, socket.MSG_WAITALL):
                follows, wanted = REQUEST.unpack(head)
                _receive(connection, follows)
                connection.sendall(bytes(wanted))


def ask(address: str, sizes: Sequence[int]) -> None:
    """Time messages of some sizes in bytes, each way, and print all seconds."""
    with _connect(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sent, wanted in ((sizes[-1], 1), (1, sizes[-1])):
            _exchange(connection, sent, wanted)  # TCP learns the link
        ping = min(_exchange(connection, 1, 1) for _ in range(PINGS))
        messages = []
        for size in sizes:
            to_first = [_exchange(connection, size, 1) for _ in range(TRIES)]
            broadcast_object = [_exchange(connection, 1, size) for _ in range(TRIES)]
            messages.append((size, to_first, broadcast_object))
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
            raise ConnectionError("the other host hung up")
        size -= got


def _connect(address: str) -> socket.socket:
    """Waits for the other program to listen."""
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
