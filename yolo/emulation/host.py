"""One host of an emulated cluster: a process that holds namespaces, and ways to run programs in them.

Nothing has a name outside. The kernel removes a host, its interface and all its processes when the holder ends, and the
holder ends with its owner, however that one ends: it reads from a pipe that the owner has the only other end of, and
asks for a signal at its parent's death.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

import psutil

from yolo.errors import BenchError

Output = IO[bytes] | int | None

END_SECONDS = 10.0
"""For the processes of a host to end with its init; the kernel kills them, so this is for a machine that swaps."""

HOLD = "echo; read -r _ || true"
"""Says that the namespaces exist, then stays until the owner closes the pipe or is gone."""

WITHOUT_IPV6 = """
for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e "$file" ] || echo 1 > "$file"; done
"""
"""Its neighbour discovery would send frames that no program asked for."""

SETTLE = f"""{WITHOUT_IPV6}
echo "$0" > /proc/sys/kernel/hostname
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /dev/shm
printf %s "$1" > /dev/shm/hostfile
printf %s "$2" > /dev/shm/hosts
mount --bind /dev/shm/hosts /etc/hosts
"""
"""A host's own name, view of its interfaces, shared memory, list of machines and name table. All of it goes away with
its mount namespace."""


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """What passed an interface since it was made, Ethernet headers included."""

    received_bytes: int
    received_packets: int
    sent_bytes: int
    sent_packets: int

    def __sub__(self, before: "InterfaceCounters") -> "InterfaceCounters":
        names = [field.name for field in fields(self)]
        return InterfaceCounters(*(getattr(self, name) - getattr(before, name) for name in names))


class Holder:
    """A process that keeps namespaces alive. Starting it from a thread ties it to the thread's life, so do not."""

    def __init__(self, flags: Sequence[str], script: str, *arguments: str) -> None:
        """Raises BenchError in the words of `unshare` or of the script where one of them fails."""
        self._process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", *flags),
                *("sh", "-ec", f"{script}\n{HOLD}", *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the owner's to answer
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        if not self._process.stdout.readline():
            found = self._process.stderr.read().decode().strip()
            self.close()
            raise BenchError(
                f"{found}; expected a Linux kernel with namespaces, and the right to make them: in a container, "
                "that of a privileged one"
            )
        root = psutil.Process(self._process.pid)
        self.pid = root.children()[0].pid if "--fork" in flags else root.pid
        """As this process sees it."""

    def close(self) -> None:
        """End the holder, and with a process namespace all that runs in it, and wait until they are gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def configure(self, program: str, lines: Sequence[str]) -> None:
        """Give `ip` or `tc` some commands in the network namespace. Raises BenchError in the program's own words."""
        ran = subprocess.run(
            [*self.entering("--net"), program, "-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise BenchError(
                f"{program}: {' '.join(ran.stderr.split())}; expected a kernel with veth, bridge and tbf "
                "(CONFIG_VETH, CONFIG_BRIDGE, CONFIG_NET_SCH_TBF)"
            )

    def entering(self, *namespaces: str) -> list[str]:
        """The command that runs a command in namespaces of this holder."""
        return ["nsenter", "--target", str(self.pid), *namespaces, "--"]


class Host:
    """A machine with a name, an address, one interface `eth0`, and processes that see no others."""

    def __init__(self, name: str, address: str, hostfile: str, hosts: str) -> None:
        """`hostfile` and `hosts` are the texts of DeepSpeed's list of machines and of /etc/hosts."""
        self.name = name
        self.address = address
        flags = ("--net", "--uts", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child")
        self.holder = Holder(flags, SETTLE, name, hostfile, hosts)

    @property
    def pid(self) -> int:
        """Of the host's init, as this process sees it."""
        return self.holder.pid

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stdin: Output = subprocess.DEVNULL,
        stdout: Output = None,
        stderr: Output = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a command on the host, with `environment` added to this process's, in `folder` or this one's."""
        return subprocess.Popen(
            [
                *self.holder.entering("--net", "--uts", "--mount", "--pid"),
                *("env", f"--chdir={folder or Path.cwd()}", *command),
            ],
            env=os.environ | dict(environment or {}),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def counters(self) -> InterfaceCounters:
        """What passed the host's eth0 so far."""
        table = Path(f"/proc/{self.pid}/net/dev").read_text()
        row = next(line for line in table.splitlines() if line.strip().startswith("eth0:"))
        figures = [int(figure) for figure in row.split(":")[1].split()]
        return InterfaceCounters(figures[0], figures[1], figures[8], figures[9])

    def kill_all(self) -> None:
        """Kill whatever runs on the host; the host itself stays."""
        # In a process namespace, -1 is all of its processes but the init and the caller.
        kill = ["sh", "-c", "kill -KILL -1"]
        subprocess.run([*self.holder.entering("--pid"), *kill], capture_output=True)
