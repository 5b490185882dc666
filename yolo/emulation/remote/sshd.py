"""`python -m yolo.emulation.remote.sshd`: run the commands of clients, each in its own shell, forever.

As under OpenSSH, a command continues when its client is gone.
"""

import contextlib
import os
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from yolo.emulation.remote.ssh import PORT, Kind, receive, send

PIECE_BYTES = 65536


def main() -> None:
    """Serve clients; an empty line on standard output says that they may connect."""
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
        lock = threading.Lock()
        with ThreadPoolExecutor(2) as threads:
            threads.submit(_copy, process.stdout, Kind.OUTPUT, connection, lock)
            threads.submit(_copy, process.stderr, Kind.ERROR, connection, lock)
        code = process.wait()
        # ssh's exit code for a killed command is 255.
        send(connection, Kind.EXIT, bytes([code if code >= 0 else 255]))


def _copy(stream: IO[bytes], kind: Kind, connection: socket.socket, lock: threading.Lock) -> None:
    """Copy to the stream's end, also after the client is gone: the command must not block."""
    with stream:
        while data := os.read(stream.fileno(), PIECE_BYTES):
            with lock, contextlib.suppress(OSError):
                send(connection, kind, data)


if __name__ == "__main__":
    main()
