"""Ask the server of `tests/docs/programs.py` for a program, wait for its end, and pass signals on to it."""

import json
import os
import signal
import socket
import sys

connection = socket.socket(socket.AF_UNIX)
connection.connect(os.environ["FORK_SOCKET"])
stream = connection.makefile("rw")
request = {
    "words": sys.argv[1:],
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "output": f"/proc/{os.getpid()}/fd/1",
}
stream.write(json.dumps(request) + "\n")
stream.flush()
if child := int(stream.readline()):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: os.kill(child, received))
sys.exit(int(stream.readline()))
