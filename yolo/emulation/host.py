"""One host of an emulated cluster: a process that holds namespaces, and ways to run programs in them.

Nothing has a name outside. The kernel removes a host, its interface and all its processes when the holder ends. The holder
always ends with its owner: it reads from a pipe whose only other end the owner has, and requests a signal at its parent's
death.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from yolo.errors import BenchError

Output = IO[bytes] | int | None

END_SECONDS = 10.0
"""Limit for a host's processes to end with its init; the kernel kills them, so only a machine that swaps needs it."""

HOLD = "echo; read -r _ || true"
"""Reports that the namespaces exist, then waits until the owner closes the pipe or is gone."""

WITHOUT_IPV6 = """
for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e "$file" ] || echo 1 > "$file"; done
"""
"""Its neighbour discovery would send frames that no program requested."""

SET_UP = f"""{WITHOUT_IPV6}
echo "$0" > /proc/sys/kernel/hostname
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /dev/shm
printf %s "$1" > /dev/shm/hostfile
printf %s "$2" > /dev/shm/hosts
mount --bind /dev/shm/hosts /etc/hosts
"""
"""A host's own name, view of its interfaces, shared memory, hostfile and name table; removed with its mount namespace."""


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Traffic of an interface since its creation, Ethernet headers included."""

    received_bytes: int
    sent_bytes: int

    def __sub__(self, before: "InterfaceCounters") -> "InterfaceCounters":
        received = self.received_bytes - before.received_bytes
        return InterfaceCounters(received, self.sent_bytes - before.sent_bytes)


class Holder:
    """A process that keeps namespaces alive. Do not start it from a thread: it would end with the thread."""

    def __init__(self, flags: Sequence[str], script: str, *arguments: str) -> None:
        """Raises BenchError with the message of `unshare` or of the script if one of them fails."""
        self._process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", *flags),
                *("sh", "-ec", f"{script}\n{HOLD}", *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # the owner handles Ctrl-C
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        if not self._process.stdout.readline():
            found = self._process.stderr.read().decode().strip()
            self.close()
            raise BenchError(
                f"{found}; expected a Linux kernel with namespaces, and the right to create them: start it as root, in a "
                "container with --privileged"
            )
        root = psutil.Process(self._process.pid)
        self.pid = root.children()[0].pid if "--fork" in flags else root.pid
        """As seen by this process."""

    def close(self) -> None:
        """End the holder and everything in its process namespace, and wait until they are gone."""
        with self._process as process:  # closes the other pipes, and waits
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def configure(self, program: str, lines: Sequence[str]) -> None:
        """Run commands of `ip` or `tc` in the network namespace. Raises BenchError with the program's message."""
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
        """The command prefix that runs a command in namespaces of this holder."""
        return ["nsenter", "--target", str(self.pid), *namespaces, "--"]


class Host:
    """A machine with a name, an address, one interface `eth0`, and processes of its own."""

    def __init__(self, name: str, address: str, hostfile: str, hosts: str) -> None:
        """`hostfile` and `hosts` are the contents of DeepSpeed's hostfile and of /etc/hosts."""
        self.name = name
        self.address = address
        flags = ("--net", "--uts", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child")
        self.holder = Holder(flags, SET_UP, name, hostfile, hosts)
        self.pid = self.holder.pid
        """Process ID of the host's init, as seen by this process."""

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
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
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def counters(self) -> InterfaceCounters:
        """Traffic of the host's eth0 so far."""
        table = Path(f"/proc/{self.pid}/net/dev").read_text()
        row = next(line for line in table.splitlines() if line.strip().startswith("eth0:"))
        columns = [int(column) for column in row.split(":")[1].split()]
        return InterfaceCounters(received_bytes=columns[0], sent_bytes=columns[8])

    def kill_all(self) -> None:
        """Kill all processes of the host; the host itself stays."""
        # In a process namespace, -1 means all of its processes except the init and the caller.
        kill = ["sh", "-c", "kill -KILL -1"]
        subprocess.run([*self.holder.entering("--pid"), *kill], capture_output=True)
