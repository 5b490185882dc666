"""N hosts on one machine, connected by a switch through links of a given bandwidth."""

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from yolo.emulation.host import WITHOUT_IPV6, Holder, Host
from yolo.errors import BenchError

NETWORK = "10.77.0"
MASTER_PORT = 29500
"""The deepspeed launcher's default; each host has its own ports."""
MOST_HOSTS = 64
REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "remote" / "bin"
"""The hosts' `ssh` and `pdsh`, to be first on PATH."""
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "GLOO_SOCKET_IFNAME": "eth0",
    "PYTHONPATH": str(REPOSITORY),
    # MPI would go through the memory that all hosts share, and past the shaped link.
    "UCX_TLS": "tcp,self",
    "UCX_NET_DEVICES": "eth0",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,tcp",
    "OMPI_MCA_btl_tcp_if_include": "eth0",
}
"""Of the hosts' programs."""
OF_A_RANK = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
"""Hosts share the machine's cores."""

BURST_SECONDS = 0.2e-3
"""Traffic that the shaper passes at once after an idle time, in seconds at its rate. With much more, every message would
start too fast, which favours strategies with small messages; with less, a late kernel timer reduces the rate."""
MIN_BURST_BYTES = 1600
"""One frame and a margin; tbf passes nothing that is bigger than its burst."""
QUEUE_BYTES = 256 * 2**20
"""More than TCP has in flight at any time, so that the shaper drops nothing."""

TOOLS = ("ip", "ss", "tc", "unshare", "nsenter", "setpriv", "mount")
POLL_SECONDS = 0.05
GRACE_SECONDS = 2.0
"""Wait after a host has failed, for hosts that failed first but end later."""
TAIL_CHARACTERS = 2000


class EmulatedCluster:
    """Hosts node0, node1, ... that exist within the context, each with its own processes and network.

    Every link is shaped in both directions. The kernel's interface counters see single frames, as on a real card that
    segments by itself. Everything is removed when the context ends or its process dies, also by SIGKILL.
    """

    def __init__(self, hosts: int, bandwidth_mbps: float | None = None) -> None:
        """Links have `bandwidth_mbps` (10^6 bits of frames per second); None: as fast as the machine copies.

        Raises BenchError for values out of range.
        """
        if not 1 <= hosts <= MOST_HOSTS:
            raise BenchError(f"{hosts} hosts: expected 1 to {MOST_HOSTS}")
        if bandwidth_mbps is not None and not 1 <= bandwidth_mbps <= 100_000:
            raise BenchError(f"bandwidth of {bandwidth_mbps:g} Mbit/s: expected 1 to 100000")
        self.bandwidth_mbps = bandwidth_mbps
        self.hosts: list[Host] = []
        self._size = hosts
        self._switch: Holder | None = None
        self._outputs: dict[subprocess.Popen[bytes], tuple[Host, Path]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Raises BenchError if this machine cannot hold a cluster."""
        check_rights()
        with ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.hosts.clear()

    def _build(self, stack: ExitStack) -> None:
        addresses = {f"node{k}": f"{NETWORK}.{k + 1}" for k in range(self._size)}
        hostfile = "".join(f"{name} slots=1\n" for name in addresses)
        names = "".join(f"{address} {name}\n" for name, address in addresses.items())
        switch = self._switch = Holder(["--net"], WITHOUT_IPV6)
        stack.callback(switch.close)
        bridge = ["link add bridge0 type bridge mcast_snooping 0", "link set bridge0 up"]
        switch.configure("ip", bridge)
        for number, (name, address) in enumerate(addresses.items()):
            host = Host(name, address, hostfile, f"127.0.0.1 localhost\n{names}")
            stack.callback(host.holder.close)
            self.hosts.append(host)
            port = f"port{number}"
            veth = f"link add {port} type veth peer name eth0 netns {host.pid}"
            switch.configure("ip", [veth, f"link set {port} master bridge0 up"])
            up = ["link set lo up", f"address add {address}/24 dev eth0", "link set eth0 up"]
            host.holder.configure("ip", up)
            self._count_frames(host)
            if self.bandwidth_mbps is not None:
                host.holder.configure("tc", [_shaper("eth0", self.bandwidth_mbps)])
                switch.configure("tc", [_shaper(port, self.bandwidth_mbps)])

    def _count_frames(self, host: Host) -> None:
        program = [sys.executable, "-m", "yolo.emulation.disable_tso", "eth0"]
        process = host.run(program, folder=REPOSITORY, stderr=subprocess.PIPE)
        _, error = process.communicate()
        if process.returncode:
            end = error.decode().strip().rpartition("\n")[2]
            raise BenchError(
                f"{host.name}: cannot turn off eth0's segmentation offload, so its counters would not count frames: {end}; "
                "expected a kernel whose veth can turn it off"
            )

    def cut(self, host: Host) -> None:
        """Unplug a host from the switch: its processes continue, but nothing reaches them or comes from them."""
        self._set_port(host, "down")

    def restore(self, host: Host) -> None:
        """Plug a host in again."""
        self._set_port(host, "up")

    def _set_port(self, host: Host, state: str) -> None:
        assert self._switch is not None
        self._switch.configure("ip", [f"link set port{self.hosts.index(host)} {state}"])

    def open_to_ssh(self) -> dict[str, str]:
        """Let hosts run commands on each other; returns the environment in which a host finds `ssh` and `pdsh`.

        As with OpenSSH, such a command does not inherit the caller's environment.
        """
        settings = {**ENVIRONMENT, "HOME": "/tmp", "PATH": os.environ["PATH"]}
        server = [
            *("env", "--ignore-environment"),
            *(f"{name}={value}" for name, value in settings.items()),
            *(sys.executable, "-m", "yolo.emulation.remote.sshd"),
        ]
        for host in self.hosts:
            process = host.run(server, stdout=subprocess.PIPE)
            assert process.stdout is not None
            with process.stdout as said:
                if not said.readline():
                    raise BenchError(f"{host.name}: its command server did not start")
        return {**settings, "PATH": f"{PROGRAMS}:{settings['PATH']}"}

    def launch(self, arguments: Sequence[str], output: Path) -> "list[subprocess.Popen[bytes]]":
        """Start the deepspeed launcher on every host, one rank each; `arguments` are the script and its arguments.

        The output of a host goes to `<output>/<its name>.log`.
        """
        processes = []
        for number, host in enumerate(self.hosts):
            command = [
                *(str(Path(sys.executable).with_name("deepspeed")), "--no_ssh"),
                *("--hostfile", "/dev/shm/hostfile", "--node_rank", str(number)),
                *("--num_nodes", str(self._size), "--num_accelerators", "1"),
                *("--master_addr", self.hosts[0].address, "--master_port", str(MASTER_PORT)),
                *("--log_level", "error", *arguments),
            ]
            processes.append(self.start(host, command, output, OF_A_RANK))
        return processes

    def start(
        self, host: Host, command: Sequence[str], output: Path, environment: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start a command on a host, for `wait`; its output goes to `<output>/<the host's name>.log`."""
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{host.name}.log"
        with path.open("wb") as log:
            process = host.run(command, environment, stdout=log, stderr=subprocess.STDOUT)
        self._outputs[process] = host, path
        return process

    def wait(
        self,
        processes: "Sequence[subprocess.Popen[bytes]]",
        timeout: float,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for processes of `launch` or `start`, and call `meanwhile` about 20 times per second.

        Raises BenchError with the end of its output if a host fails or is not done after `timeout` seconds, after killing
        all processes on the hosts.
        """
        deadline = time.monotonic() + timeout
        failed: list[str] = []
        while late := [process for process in processes if process.poll() is None]:
            if any(process.returncode for process in processes):
                end = time.monotonic() + GRACE_SECONDS
                while time.monotonic() < end and None in [each.poll() for each in processes]:
                    time.sleep(POLL_SECONDS)
                break
            if time.monotonic() > deadline:
                failed = [self._failure(each, f"not done after {timeout:g} s") for each in late]
                break
            meanwhile()
            time.sleep(POLL_SECONDS)
        # Only the exit codes so far: those of processes killed now mean nothing.
        failed = failed or [
            self._failure(process, f"exit code {process.returncode}")
            for process in processes
            if process.returncode
        ]
        if failed:
            for host in self.hosts:
                host.kill_all()
            for process in processes:
                process.wait()
            raise BenchError("\n".join(failed))

    def _failure(self, process: "subprocess.Popen[bytes]", what: str) -> str:
        host, path = self._outputs[process]
        end = path.read_text(errors="replace")[-TAIL_CHARACTERS:].strip()
        return f"{host.name}: {what}; {path} ends with:\n{end}"


def _shaper(interface: str, mbps: float) -> str:
    rate = mbps * 1e6 / 8
    burst = max(MIN_BURST_BYTES, math.ceil(rate * BURST_SECONDS))
    return (
        f"qdisc add dev {interface} root tbf rate {round(mbps * 1e6)}bit "
        f"burst {burst} limit {QUEUE_BYTES}"
    )


def check_rights() -> None:
    """Raises BenchError if this user cannot build a cluster, or this machine lacks programs for it."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise BenchError(
            f"{', '.join(missing)}: no such program; an emulated cluster needs them. "
            "On Debian: apt-get install iproute2 util-linux mount"
        )
    if os.geteuid() != 0:
        raise BenchError(
            f"an emulated cluster needs root for its namespaces and shaped links, but this is user {os.geteuid()}; "
            "start it with sudo, or in a privileged container"
        )
