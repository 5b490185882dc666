"""What this machine has, found without importing torch."""

import os
from pathlib import Path

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")


def count_gpus() -> int:
    """NVIDIA GPUs that a process started here would see, CUDA_VISIBLE_DEVICES respected."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    installed = len(list(DRIVER_FOLDER.iterdir())) if DRIVER_FOLDER.is_dir() else 0
    if visible is None:
        return installed
    return min(
        installed, len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    )


def count_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
