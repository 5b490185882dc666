"""Detect the GPUs and cores of this machine, without importing torch."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")


def visible_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that a new process would see: their numbers, or their names in CUDA_VISIBLE_DEVICES."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return ()
    installed = tuple(str(number) for number in range(_installed_gpus(DRIVER_FOLDER, DEVICES)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not installed:
        return installed
    named = [name.strip() for name in visible.split(",")]
    return tuple(name for name in named if name not in ("", "-1"))[: len(installed)]


def count_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


@cache
def _installed_gpus(driver_folder: Path, devices: Path) -> int:
    """Count GPUs by the driver's folder; if a container hides it, by the devices; under WSL2, by the driver's tool."""
    if driver_folder.is_dir():
        return len(list(driver_folder.iterdir()))
    found = len([path for path in devices.glob("nvidia*") if path.name[6:].isdecimal()])
    tool = shutil.which("nvidia-smi")
    if found or tool is None or not (devices / "dxg").exists():
        return found
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
