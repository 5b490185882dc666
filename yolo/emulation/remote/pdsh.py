"""`pdsh -S -f N -w HOST,HOST... COMMAND...` over the stand-in for ssh: the command on all hosts at the same time.

In the command, %n is the number of the host and %h its name. Each output line starts with the host's name.
"""

import getopt
import os
import sys
import threading
from collections.abc import Sequence

from yolo.emulation.remote.ssh import FAILED, Kind, run, split


def main(words: Sequence[str]) -> int:
    """Run a command on hosts; returns their largest exit code (-S)."""
    given, command_words = getopt.getopt(list(words), "Sf:w:")
    hosts = dict(given)["-w"].split(",")
    options, _ = split(os.environ.get("PDSH_SSH_ARGS_APPEND", "").split())
    command = " ".join(command_words)
    codes = dict.fromkeys(hosts, FAILED)
    lock = threading.Lock()

    def work(number: int, host: str) -> None:
        incomplete = {Kind.OUTPUT: b"", Kind.ERROR: b""}

        def write(kind: Kind, data: bytes) -> None:
            *lines, incomplete[kind] = (incomplete[kind] + data).split(b"\n")
            for line in lines:
                write_line(kind, line)

        def write_line(kind: Kind, line: bytes) -> None:
            stream = sys.stdout if kind is Kind.OUTPUT else sys.stderr
            with lock:
                stream.buffer.write(host.encode() + b": " + line + b"\n")
                stream.flush()

        here = command.replace("%n", str(number)).replace("%h", host)
        try:
            codes[host] = run(host, here, options, write)
        except OSError as error:
            write_line(Kind.ERROR, f"ssh: {error.strerror or error}".encode())
        for kind, rest in incomplete.items():
            if rest:
                write_line(kind, rest)
        if codes[host]:
            failure = f"{host}: ssh exited with exit code {codes[host]}"
            print(f"pdsh@{os.uname().nodename}: {failure}", file=sys.stderr, flush=True)

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
