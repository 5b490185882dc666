"""`pdsh -S -f N -w HOST,HOST... COMMAND...` over the stand-in for ssh: the command on all hosts at a time.

In the command, %n is the number of the host and %h its name. Lines come with the host's name before them.
"""

import os
import sys
import threading
from collections.abc import Sequence

from yolo.emulation.remote.protocol import Kind
from yolo.emulation.remote.ssh import FAILED, run, split


def main(words: Sequence[str]) -> int:
    """Run a command on hosts; returns the largest of their exit codes (-S)."""
    hosts, left = [], list(words)
    while left and left[0].startswith("-"):
        option = left.pop(0)
        if option in ("-f", "-w"):
            value = left.pop(0)
            if option == "-w":
                hosts = value.split(",")
    options, _ = split(os.environ.get("PDSH_SSH_ARGS_APPEND", "").split())
    command = " ".join(left)
    codes = dict.fromkeys(hosts, FAILED)
    turn = threading.Lock()

    def work(number: int, host: str) -> None:
        written = {Kind.OUTPUT: b"", Kind.ERROR: b""}

        def write(kind: Kind, data: bytes) -> None:
            *lines, written[kind] = (written[kind] + data).split(b"\n")
            for line in lines:
                say(kind, line)

        def say(kind: Kind, line: bytes) -> None:
            stream = sys.stdout if kind is Kind.OUTPUT else sys.stderr
            with turn:
                stream.buffer.write(host.encode() + b": " + line + b"\n")
                stream.flush()

        here = command.replace("%n", str(number)).replace("%h", host)
        try:
            codes[host] = run(host, here, options, write)
        except OSError as error:
            say(Kind.ERROR, f"ssh: {error.strerror or error}".encode())
        for kind, rest in written.items():
            if rest:
                say(kind, rest)
        if codes[host]:
            print(
                f"pdsh@{os.uname().nodename}: {host}: ssh exited with exit code {codes[host]}",
                file=sys.stderr,
                flush=True,
            )

    threads = [
        threading.Thread(target=work, args=(number, host), daemon=True)
        for number, host in enumerate(hosts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(codes.values(), default=0)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
