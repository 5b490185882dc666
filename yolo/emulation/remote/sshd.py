"""`python -m yolo.emulation.remote.sshd`: run what clients ask for, each command in a shell of its own, for ever.

As under OpenSSH, a command whose client is gone goes on.
"""

import contextlib
import os
import socket
import subprocess
import threading
from typing import IO

from yolo.emulation.remote.protocol import PORT, Kind, receive, send

PIECE_BYTES = 65536


def main() -> None:
    """Say with an empty line that clients may come."""
    with socket.create_server(("", PORT), backlog=64) as listener:
        print(flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        _, command = receive(connection)
        process = subprocess.Popen(
            ["sh", "-c", command.decode()],
            cwd=os.environ.get("HOME", "/"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None
        turn = threading.Lock()
        threads = [
            threading.Thread(target=_copy, args=(stream, kind, connection, turn))
            for stream, kind in ((process.stdout, Kind.OUTPUT), (process.stderr, Kind.ERROR))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        code = process.wait()
        # Of a command that was killed, ssh's exit code is 255.
        send(connection, Kind.EXIT, bytes([code if code >= 0 else 255]))


def _copy(stream: IO[bytes], kind: Kind, connection: socket.socket, turn: threading.Lock) -> None:
    """To its end, also when nobody listens any more: the command must not wait."""
    with stream:
        while data := os.read(stream.fileno(), PIECE_BYTES):
            with turn, contextlib.suppress(OSError):
                send(connection, kind, data)


if __name__ == "__main__":
    main()
