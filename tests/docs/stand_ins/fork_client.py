"""Ask the server of `tests/docs/programs.py` for a program, wait for its end, and pass signals on to it.

Its answer is the number of each process that it starts, and `end` with the exit code.
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
child = 0


def pass_on(number: int, _: object) -> None:
    if child:
        os.kill(child, number)


for received in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(received, pass_on)
for line in stream:
    if line.startswith("end "):
        sys.exit(int(line.removeprefix("end ")))
    child = int(line)
sys.exit("the test's process is gone")
