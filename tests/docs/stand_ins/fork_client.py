"""Ask the server of `tests/docs/programs.py` for a program, wait for its end, and pass signals on to it.

Its answer is the number of the process, 0 for none, and in a second line the exit code.
"""

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
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda received, frame: os.kill(child, received))
sys.exit(int(stream.readline()))
