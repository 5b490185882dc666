"""Report what a host has: `python -m yolo.preflight.probe REQUEST`, run there in the repository's folder.

The request is JSON, and so is the one line that is printed. Nothing is imported that a host may lack.
"""

import fcntl
import json
import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from yolo.preflight.data_digest import content_of, digest_of_source
from yolo.preflight.host_info import Code, Gpu, HostFacts, Interface, ProbeRequest

PACKAGES = ("torch", "deepspeed", "numpy")
PACKAGE_FOLDER = Path(__file__).parents[1]
DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
SIOCGIFADDR = 0x8915
"""ioctl for an interface's IPv4 address (netdevice(7))."""
TOOL_SECONDS = 30
"""nvidia-smi takes about 10 s on a host with eight GPUs if its driver has to wake them."""


def main() -> None:
    """Print this host's facts."""
    request = ProbeRequest(**json.loads(sys.argv[1]))
    signal.alarm(request.seconds)  # the requesting process may be gone
    facts = HostFacts(
        code=_code(),
        versions={
            "Python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        torch_is_for=_torch_is_for(),
        gpus=tuple(_gpus()),
        free_bytes=shutil.disk_usage("runs" if Path("runs").is_dir() else ".").free,
        address=_address(),
        interfaces=tuple(_interfaces()),
        content=content_of(request),
    )
    print(json.dumps(asdict(facts)))


def _code() -> Code:
    source = digest_of_source(PACKAGE_FOLDER)
    # Without the lock, a commit at the same moment is not disturbed.
    git = ["git", "--no-optional-locks"]
    try:
        commit = _output([*git, "rev-parse", "HEAD"]).strip()
        changed = len(_output([*git, "status", "--porcelain"]).splitlines())
    except (OSError, subprocess.SubprocessError) as error:
        message = getattr(error, "stderr", None) or str(error)
        return Code(None, 0, source, message.strip().splitlines()[0])
    return Code(commit, changed, source)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch_is_for() -> dict[str, str | None]:
    """Read torch's files: importing it takes seconds."""
    found: dict[str, str | None] = {"CUDA": None, "NCCL": None}
    with suppress(PackageNotFoundError, OSError):
        torch = distribution("torch")
        text = Path(str(torch.locate_file("torch/version.py"))).read_text()
        if cuda := re.search(r"^cuda\b.*= *['\"](.+)['\"]", text, re.MULTILINE):
            found["CUDA"] = cuda[1]
        for requirement in torch.requires or ():
            if nccl := re.match(r"nvidia-nccl-\w+", requirement):
                found["NCCL"] = _version(nccl[0])
    return found


def _address() -> str:
    try:
        return next(iter(_output(["hostname", "-I"]).split()), "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _gpus() -> Iterator[Gpu]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [] if visible is None else ["-i", visible.replace(" ", "")]
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    if visible in ("", "-1"):
        return
    if shutil.which("nvidia-smi") is None:  # a container may hide the tool, but not the driver
        for file in sorted(DRIVER_FOLDER.glob("*/information")):
            yield Gpu(file.read_text().partition("Model:")[2].partition("\n")[0].strip(), 0)
        return
    try:
        lines = _output([*query, *chosen]).splitlines()
    except subprocess.SubprocessError:  # a driver that fails offers no GPU
        return
    for line in lines:
        name, _, memory = line.rpartition(",")
        yield Gpu(name.strip(), int(memory) if memory.strip().isdecimal() else 0)


def _interfaces() -> Iterator[Interface]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(kernel, SIOCGIFADDR, struct.pack("256s", name.encode()))
                mtu = int(Path(f"/sys/class/net/{name}/mtu").read_text())
            except OSError:  # has no such address
                continue
            yield Interface(name, socket.inet_ntoa(answer[20:24]), mtu)


def _output(command: Sequence[str]) -> str:
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TOOL_SECONDS)
    return ran.stdout


if __name__ == "__main__":
    main()
